"""Transformers engine: continuous batching with a steering spec per request."""
