"""Processes: start-up, the HTTP server, replicas, the page proxy and the background trainer."""
