"""Doses: measuring them, sweeps, preferences and suggestions."""
