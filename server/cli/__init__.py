"""Command line `tiller`, one file per command or group of commands."""
