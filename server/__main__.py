"""`python -m server` is `tiller`."""

from server.cli import app

app()
