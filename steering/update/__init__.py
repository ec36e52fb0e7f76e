"""Updates of a published SAE that keep its features: growth, drift and gates."""
