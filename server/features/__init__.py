"""Features for people: search, labels, samples read through the model, and the map's files."""
