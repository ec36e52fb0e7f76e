"""Feature search, labels, reading of texts and samples, and map files."""
