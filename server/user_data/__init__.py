"""User data: presets, feedback, vectors, import and export."""
