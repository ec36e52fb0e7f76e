"""The real model's checkpoint for the tests of this folder."""

import pytest
import torch

from tests.support.real_model import fetched_model


@pytest.fixture(scope="session")
def checkpoint() -> str:
    """Folder of the checkpoint."""
    torch.set_num_threads(2)
    return fetched_model()
