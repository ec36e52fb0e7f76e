"""Each dial of the sampler does what its name says."""

import pytest
import torch

from server.engines.engine import Sampling
from server.engines.sampler import next_token, penalised, truncated

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])
NONE = torch.tensor([], dtype=torch.long)


def kept(**dials):
    return torch.isfinite(truncated(LOGITS, Sampling(**dials))).nonzero()[:, 0].tolist()


def draw(seed=0, **dials):
    return next_token(LOGITS, NONE, NONE, Sampling(**dials), torch.Generator().manual_seed(seed))


def test_temperature_zero_takes_the_likeliest():
    assert {draw(seed, temperature=0) for seed in range(20)} == {0}


@pytest.mark.parametrize("temperature", [1e-5, 1e-30, 1e-45])
def test_tiny_temperature_is_nearly_greedy_and_no_nan(temperature):
    assert {draw(seed, temperature=temperature) for seed in range(20)} == {0}


def test_high_temperature_draws_them_all():
    assert {draw(seed, temperature=5.0) for seed in range(200)} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("dials", "expected"),
    [
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 0}, [0, 1, 2, 3, 4]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.01}, [0]),
        ({"top_p": 0.85}, [0, 1, 2]),
        ({"min_p": 0.3}, [0, 1]),
        ({"top_k": 3, "top_p": 0.8}, [0, 1]),
    ],
)
def test_truncation_keeps_the_likely(dials, expected):
    assert kept(**dials) == expected


def test_repetition_penalty_lowers_what_was_seen_whatever_its_sign():
    out = penalised(LOGITS, torch.tensor([0, 3, 0]), NONE, Sampling(repetition_penalty=2.0))
    assert out.tolist() == [1.0, 1.0, 0.5, -2.0, -3.0]


def test_presence_and_frequency_count_only_what_was_generated():
    out = penalised(
        LOGITS, torch.tensor([4]), torch.tensor([1, 1, 2]), Sampling(presence_penalty=0.5, frequency_penalty=0.25)
    )
    assert out.tolist() == [2.0, 0.0, -0.25, -1.0, -3.0]


def test_logit_bias_is_added():
    assert draw(temperature=0, logit_bias=((3, 10.0),)) == 3


def test_the_models_logits_are_left_alone():
    before = LOGITS.clone()
    draw(temperature=1.0, repetition_penalty=2.0, top_k=2, logit_bias=((1, 3.0),))
    assert torch.equal(LOGITS, before)
