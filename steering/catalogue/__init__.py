"""Feature catalogue of a bundle: features, revisions, checksums and manual edits."""
