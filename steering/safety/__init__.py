"""Probes and refusal directions."""
