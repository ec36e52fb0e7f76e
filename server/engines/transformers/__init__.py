"""The transformers engine: continuous batching with a steering spec for each request."""
