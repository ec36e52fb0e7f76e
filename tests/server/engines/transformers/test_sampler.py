"""Sampler: every sampling parameter has its documented effect."""

import pytest
import torch

from server.engines.base import Sampling
from server.engines.transformers.sampler import Sampler, next_tokens, truncated

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])
CPU = torch.device("cpu")


def kept(**dials):
    return torch.isfinite(truncated(LOGITS, Sampling(**dials))).nonzero()[:, 0].tolist()


def begin(prompt=(), spoken=(), **dials):
    reply = Sampler.begin(Sampling(**{"seed": 0, **dials}), prompt, len(LOGITS), CPU)
    for token in spoken:
        reply.count_token(token)
    return reply


def sample(logits, draws):
    return next_tokens(torch.stack([d.adjusted(row) for d, row in zip(draws, logits, strict=True)]), draws)


def draw(seed=0, **dials):
    return sample(LOGITS[None], [begin(seed=seed, **dials)])[0]


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
    out = begin((0, 3), (0,), repetition_penalty=2.0).adjusted(LOGITS)
    assert out.tolist() == [1.0, 1.0, 0.5, -2.0, -3.0]


def test_presence_and_frequency_count_only_what_was_generated():
    out = begin((4,), (1, 1, 2), presence_penalty=0.5, frequency_penalty=0.25).adjusted(LOGITS)
    assert out.tolist() == [2.0, 0.0, -0.25, -1.0, -3.0]


def test_draws_follow_the_probabilities():
    one = begin()
    counts = torch.bincount(torch.tensor([sample(LOGITS[None], [one])[0] for _ in range(4000)]), minlength=5)
    heat = torch.softmax(LOGITS / Sampling().temperature, -1)
    torch.testing.assert_close(counts / 4000, heat, atol=0.03, rtol=0)


def test_a_row_draws_the_same_alone_and_among_others():
    dials = [
        {"temperature": 0},
        {"seed": 1},
        {"seed": 2, "top_k": 3},
        {"seed": 3, "repetition_penalty": 1.3},
        {"seed": 4, "top_p": 0.8, "temperature": 1.5},
        {"seed": 5, "logit_bias": ((4, 6.0),)},
    ]
    together, alone = ([begin((0,), **d) for d in dials] for _ in range(2))
    for _ in range(50):
        tokens = sample(LOGITS.expand(len(dials), -1), together)
        assert tokens == [sample(LOGITS[None], [d])[0] for d in alone]
        for both in zip(together, alone, tokens, strict=True):
            both[0].count_token(both[2])
            both[1].count_token(both[2])


def test_blocked_token_never_comes():
    one = begin(temperature=2.0)
    one.blocked = [0, 1]
    assert {sample(LOGITS[None], [one])[0] for _ in range(200)} == {2, 3, 4}


def test_ruled_out_token_never_comes_even_at_the_end_of_the_range():
    certain = torch.tensor([[-torch.inf, 0.0, -torch.inf, -torch.inf, -torch.inf]])
    assert {sample(certain, [begin(seed=s)])[0] for s in range(50)} == {1}


def test_logit_bias_is_added():
    assert draw(temperature=0, logit_bias=((3, 10.0),)) == 3


def test_the_models_logits_are_left_alone():
    before = LOGITS.clone()
    draw(temperature=1.0, repetition_penalty=2.0, top_k=2, logit_bias=((1, 3.0),))
    assert torch.equal(LOGITS, before)
