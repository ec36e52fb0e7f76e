"""Engines: run the model, one file or folder per engine."""
