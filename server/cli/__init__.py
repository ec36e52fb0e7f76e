"""The command line `tiller`, one file a command or group of commands."""
