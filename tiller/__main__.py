"""`python -m tiller` runs the command `tiller`."""

from server.cli.main import app

app()
