"""Served model: the model, SAE revision and presets that answer a request."""
