"""Paths in the repository, for tests wherever they stand."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
HARBOR = ROOT / "sae_weights" / "harbor"
