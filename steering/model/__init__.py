"""Model access: hooks, chat templates, activations and token stores of a transformers model."""
