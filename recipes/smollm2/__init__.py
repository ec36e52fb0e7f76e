"""SmolLM2-135M-Instruct with an SAE of its own: `python -m recipes.smollm2 --out runs/smollm2`."""
