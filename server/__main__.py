"""`python -m server` is `tiller`."""

from server.cli.main import app

app()
