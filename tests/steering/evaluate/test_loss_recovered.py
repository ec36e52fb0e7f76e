"""Loss recovered: a perfect SAE loses nothing, an empty one everything."""

import pytest
import torch

from steering.evaluate.loss_recovered import loss_recovered
from steering.sae import SAE
from tests.steering.conftest import random_sae

HOOK = "layers.1"


def texts(n=4, time=24):
    g = torch.Generator().manual_seed(5)
    ids, real = torch.randint(1, 97, (n, time), generator=g), torch.ones(n, time, dtype=torch.bool)
    real[0, 15:] = False
    return [(ids[:2], real[:2]), (ids[2:], real[2:])]


def two_sided(d):
    """Each axis in both directions: any stream is reconstructed."""
    rows = torch.cat([torch.eye(d), -torch.eye(d)])
    return SAE(rows.T.contiguous(), torch.zeros(2 * d), rows, torch.zeros(d), torch.zeros(2 * d))


def test_a_perfect_reconstruction_loses_nothing(any_model):
    found = loss_recovered(any_model, two_sided(32), texts(), HOOK)
    assert found.rise == pytest.approx(0, abs=1e-5)
    assert found.recovered == pytest.approx(1, abs=1e-4)
    assert found.kl == pytest.approx(0, abs=1e-5)
    assert found.tokens == 14 - 1 + 3 * 22


def test_a_silent_sae_is_as_bad_as_zeros(llama):
    silent = SAE(torch.zeros(32, 4), torch.zeros(4), torch.eye(32)[:4], torch.zeros(32), torch.zeros(4))
    assert loss_recovered(llama, silent, texts(), HOOK).recovered == pytest.approx(0, abs=1e-5)


def test_a_poor_sae_shifts_what_comes_next(llama):
    assert loss_recovered(llama, random_sae(), texts(), HOOK).kl > 0


def test_the_loss_without_an_sae_is_the_models(llama):
    (ids, real), *_ = texts()
    found = loss_recovered(llama, two_sided(32), [(ids[1:], real[1:])], HOOK)
    own = torch.nn.functional.cross_entropy(llama(ids[1:]).logits[0, 1:-1], ids[1, 2:])
    assert found.clean == pytest.approx(float(own.detach()), rel=1e-5)


def test_text_that_nothing_can_be_said_of_is_refused(llama):
    with pytest.raises(ValueError, match="no token"):
        loss_recovered(
            llama, random_sae(), [(torch.ones(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool))], HOOK
        )
