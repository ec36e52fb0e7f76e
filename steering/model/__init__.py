"""Reading a transformers model: hooks, chat templates, activations and token stores."""
