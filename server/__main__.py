"""`python -m server` runs `tiller`."""

from server.cli.main import app

app()
