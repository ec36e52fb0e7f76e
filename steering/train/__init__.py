"""Making and judging an SAE. Sees an iterator of tensors and not where they come from."""
