"""Steering policy, content guards, and easing of degenerate replies."""
