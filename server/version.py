"""Which Tiller this is."""

from importlib.metadata import version

VERSION = version("tiller")
