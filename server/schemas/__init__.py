"""Request and response models of the HTTP API, one module a topic. A field with a default may be omitted."""
