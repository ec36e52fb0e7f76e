"""Updating an SAE without breaking its features: growth, drift and gates."""
