"""HTTP, engines and state around the core."""
