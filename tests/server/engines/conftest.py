"""Fixtures: the small model and its tokenizer, from which tests build engines."""

import pytest
import torch

from tests.support import small_bundle


@pytest.fixture(scope="module")
def parts():
    torch.set_num_threads(1)
    tok = small_bundle.tokenizer()
    return small_bundle.model(len(tok)).to(small_bundle.DEVICE), tok
