"""`python -m tiller` runs the command `tiller`, as `python -m server` does."""

import runpy

runpy.run_module("server", run_name="__main__")
