"""Server: HTTP API, engines and state on top of the steering core."""
