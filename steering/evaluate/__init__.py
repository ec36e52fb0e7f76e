"""Metrics of an SAE, of a reply's coherence and of classifiers, and their statistics."""
