"""Paths in the repository, independent of a test's folder."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
HARBOR = ROOT / "sae_weights" / "harbor"
