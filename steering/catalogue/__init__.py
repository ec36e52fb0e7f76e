"""The catalogue of a bundle: features, revisions, checksums and edits by people."""
