"""The served model: which model, SAE revision and presets answer a request."""
