"""Doses: measurement, sweeps, preferences and suggestions."""
