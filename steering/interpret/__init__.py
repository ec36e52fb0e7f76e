"""Interpretation of features: descriptions, labels, search, attribution and comparison."""
