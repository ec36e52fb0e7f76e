"""Engines: what runs the model. One protocol, one file per engine."""
