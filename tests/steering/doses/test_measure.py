"""Dose calibration: dose 1.0 is where nine of ten replies read as fluent; an effect is one that random pushes don't have."""

import math
import random

import pytest
import torch

from steering.calibration import Calibration, Measured
from steering.doses import measure
from steering.doses.measure import (
    ROUNDS,
    Null,
    Round,
    Subject,
    calibrate,
    decide,
    pushes_along,
    reading,
    reads_direction,
)
from steering.doses.rollouts import Rollout, Rollouts
from steering.doses.sampling import NATURAL
from steering.model.chat_template import EncodedChat

NORM = 100.0
EMPTY = Rollout(torch.zeros(0), torch.zeros(0), 0.0, 0.0, [], [])


def drive(middle, *, width=0.1, longest=200.0, replies=16, seed=0, most=ROUNDS):
    """Run the search against a made-up model whose replies are fluent along a logistic curve."""
    rng, asked = random.Random(seed), []
    subject = Subject(pushes_along(torch.ones(4) / 2), lambda _: 0.0, longest)
    search = measure._search(subject, 1, NORM, most, None)
    raw = next(search)
    while True:
        asked.append(raw)
        share = 1 / (1 + math.exp(-(middle - raw / NORM) / (width * middle)))
        fluent = sum(rng.random() < 0.99 * share for _ in range(replies))
        try:
            raw = search.send(Round(raw, fluent, replies, EMPTY, EMPTY))
        except StopIteration as end:
            return end.value, asked


@pytest.mark.parametrize("middle", [0.25, 0.45, 0.7])
def test_dose_one_is_where_nine_of_ten_replies_are_fluent(middle):
    truth = NORM * middle * (1 - 0.1 * math.log(9))
    found = [drive(middle, seed=s)[0] for s in range(12)]
    errors = sorted(abs(c.dose / truth - 1) for c in found)
    assert errors[len(errors) // 2] < 0.12
    assert errors[-1] < 0.35
    held = sum(c.interval[0] <= truth <= c.interval[1] for c in found)
    assert held >= 8, "a 90 % interval holds the truth mostly"


def test_more_replies_make_the_interval_narrower():
    wide = lambda n: [c.interval[1] - c.interval[0] for c, _ in (drive(0.45, replies=n, seed=s) for s in range(6))]  # noqa: E731
    assert sum(wide(64)) < sum(wide(8))


def test_rounds_are_bounded_and_the_last_is_at_dose_one():
    curve, asked = drive(0.45)
    assert len(asked) <= ROUNDS
    assert curve.rounds[-1].raw == asked[-1]
    assert asked[-1] == pytest.approx(curve.dose, rel=0.2)


def test_what_never_breaks_text_stops_at_the_longest_push():
    curve, asked = drive(50.0, longest=60.0)
    assert max(asked) <= 60.0
    assert curve.dose == 60.0


def test_effects_are_decided_at_a_false_discovery_rate():
    measured = [Calibration(p=p) for p in (0.001, 0.02, 0.04, 0.9)]
    assert [c.works for c in decide(measured)] == [True, True, False, False]
    assert [c.works for c in decide([Calibration(), Calibration(p=0.5)])] == [False, False]


def rollout(*values, d=4):
    """Replies whose stream is constant."""
    return Rollout(torch.zeros(0), torch.zeros(0), 0.0, 0.0, [], [torch.full((3, d), v) for v in values])


def test_an_effect_that_random_pushes_have_too_is_none():
    read = lambda x: float(x.mean())  # noqa: E731
    random_ = Null(tuple(rollout(0.1 * (i % 5)) for i in range(30)), rollout(0.0), 10.0).read(read)
    made = lambda value: [Round(10.0, 1.0, 1, rollout(value), rollout(0.0))]  # noqa: E731
    _, z, p = random_.effect(made(0.3))
    assert abs(z) < 1
    assert p > 0.2
    effect, z, p = random_.effect(made(2.0))
    assert effect == pytest.approx(2.0)
    assert z > 8
    assert p < 1e-6


def test_replies_without_tokens_read_as_nothing():
    assert reading(lambda x: 1.0, Rollout(torch.zeros(0), torch.zeros(0), 0, 0, [[]], [torch.zeros(0, 4)])) == 0.0


def test_a_direction_is_read_in_typical_norms():
    read = reads_direction(torch.tensor([0.0, 2.0, 0.0]), 10.0)
    assert read(torch.tensor([[0.0, 5.0, 0.0], [0.0, 15.0, 1.0]])) == pytest.approx(1.0)


def test_the_sweet_spot_begins_where_the_effect_is_a_quarter_of_that_at_dose_one():
    points = [Measured(raw=r, effect=e, kl=0, surprise=0, repetition=0, n=16) for r, e in ((20, 0.2), (40, 0.8))]
    spot = measure._sweet_spot(points, 40.0, 1, 0.8, "2026-01-01")
    assert (spot.low, spot.high, spot.n) == (0.5, 1.0, 32)
    assert measure._sweet_spot(points, 40.0, 1, 0.0, "") is None


def test_a_real_model_is_measured_many_pushes_at_once(llama, sae):
    g = torch.Generator().manual_seed(1)
    rows = [tuple(torch.randint(5, 97, (6,), generator=g).tolist()) for _ in range(4)]
    chats = [EncodedChat(r, (False,) * 5 + (True,), "") for r in rows]
    stages = [Rollouts.prepare(llama, "layers.1", half, tokens=8, draw=NATURAL) for half in (chats[:2], chats[2:])]
    decode = lambda ids: " ".join(f"w{i}" for i in ids)  # noqa: E731
    null, done = Null.measure(stages, decode, 4.0), []
    subjects = [Subject(pushes_along(sae.W_dec[i]), reads_direction(sae.W_dec[i], 4.0), 40.0) for i in range(5)]
    found = calibrate(
        stages,
        subjects,
        null,
        decode,
        4.0,
        at_once=3,
        stamp=("2026-01-01", "r1"),
        on_progress=lambda i, _: done.append(i),
    )
    assert sorted(done) == [0, 1, 2, 3, 4]
    for one in found:
        curve = one.calibration
        assert curve.method == "fluency"
        assert curve.revision == "r1"
        assert list(curve.knots) == sorted(curve.knots)
        assert [d for d, _ in curve.knots] == [-1.0, 0.0, 1.0]
        assert one.dose == pytest.approx(curve.knots[-1][1], rel=1e-3)
        assert curve.interval[0] <= 1.0001
        assert curve.interval[1] >= 0.999
        assert curve.replies == sum(p.n for p in curve.points if p.raw > 0)
