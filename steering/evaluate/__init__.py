"""Metrics: of an SAE, of a reply's coherence, of classifiers, and their statistics."""
