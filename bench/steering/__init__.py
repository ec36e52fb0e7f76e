"""Comparisons of ways to steer."""
