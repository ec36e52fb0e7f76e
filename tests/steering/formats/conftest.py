"""The parts of one small SAE, and tokens to read."""

import pytest
import torch

from tests.steering.formats.publisher_files import D, M


@pytest.fixture
def parts():
    g = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    return {
        "x": draw(40, D),
        "W_enc": draw(D, M),
        "b_enc": draw(M) * 0.3,
        "W_dec": draw(M, D),
        "b_dec": draw(D),
        "threshold": draw(M).abs() * 0.5,
    }
