"""SAE training: objectives, kernels, the training loop, distribution and checkpoints."""
