"""Chat requests: prepare, generate and format the reply."""
