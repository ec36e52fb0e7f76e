"""What users keep: presets, feedback, vectors, imports and exports."""
