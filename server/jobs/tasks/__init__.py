"""Job types, one file each; the file's name is the job's type."""
