"""Dose calibration: the dose at the KL limit, in eight evaluations, with a slider that is linear in its effect."""

import itertools
import math

import pytest
import torch

from steering.calibration import Measured, raw_at
from steering.doses import measure
from steering.doses.measure import FORWARD, Null, Subject, calibrate, pushes_along
from steering.doses.rollouts import Rollouts
from steering.model.chat_template import EncodedChat


def drive(subject, response, null=None):
    """Run the search against a made-up model: `response(raw)` is what an evaluation would find."""
    search = measure._search(subject, null, ("2026-01-01", "r1"))
    asked, raw = [], next(search)
    while True:
        asked.append(raw)
        try:
            raw = search.send(response(raw))
        except StopIteration as end:
            return end.value, asked


def square(at_one, *, effect=1.0, power=2.0, repeats=math.inf):
    """KL of one nat at `at_one`; the effect grows by `power`; from `repeats` on replies loop."""
    return lambda raw: Measured(
        raw=raw,
        effect=effect * math.copysign(abs(raw / at_one) ** power, raw),
        kl=(raw / at_one) ** 2,
        surprise=0.1,
        repetition=0.3 if abs(raw) >= repeats else 0.0,
    )


def subject(start=10.0, longest=200.0, signs=(1, -1)):
    return Subject(pushes_along(torch.ones(4) / 2), torch.tensor([1, 2]), start, longest, signs)


@pytest.mark.parametrize("at_one", [1.5, 9.0, 40.0, 150.0])
def test_dose_one_is_where_kl_is_a_nat_in_at_most_eight_evaluations(at_one):
    found, asked = drive(subject(), square(at_one))
    assert len(asked) <= 8
    assert 0.9 * at_one < found.knots[-1][1] <= at_one
    assert -at_one <= found.knots[0][1] < -0.8 * at_one


def test_what_grows_steeply_is_found_as_well():
    steep = lambda raw: Measured(raw=raw, effect=raw, kl=(abs(raw) / 50) ** 6, surprise=0, repetition=0)  # noqa: E731
    found, asked = drive(subject(), steep)
    assert len(asked) <= 8
    assert 0.85 <= (found.knots[-1][1] / 50) ** 6 <= 1


def test_half_a_dose_is_half_of_the_effect():
    """A quadratic effect: half of it is at 0.71 of the push, and that is where the slider's middle goes."""
    found, _ = drive(subject(), square(40.0, power=2.0))
    full = found.knots[-1][1]
    assert raw_at(0.5, found.knots) / full == pytest.approx(math.sqrt(0.5), abs=0.12)
    line, _ = drive(subject(), square(40.0, power=1.0))
    assert raw_at(0.5, line.knots) / line.knots[-1][1] == pytest.approx(0.5, abs=0.05)


def test_knots_rise_whatever_was_measured():
    wild = lambda raw: Measured(  # noqa: E731
        raw=raw, effect=math.sin(raw), kl=(raw / 40) ** 2, surprise=0.1, repetition=0
    )
    knots = drive(subject(), wild)[0].knots
    assert list(knots) == sorted(knots)
    raws = [raw for _, raw in knots]
    assert all(a < b for a, b in itertools.pairwise(raws))


def test_replies_that_loop_limit_the_dose():
    found, _ = drive(subject(), square(100.0, repeats=20.0))
    assert found.limited_by == "repetition"
    assert 0 < found.knots[-1][1] < 20


def test_what_never_reaches_a_nat_stops_at_the_longest_push():
    found, asked = drive(subject(longest=60.0), square(1e6))
    assert found.limited_by == "length"
    assert found.knots[-1][1] == 60.0
    assert max(asked) == 60.0


def test_a_push_without_effect_is_marked():
    found, _ = drive(subject(), square(40.0, effect=0.01))
    assert not found.works


def test_an_effect_that_random_directions_have_too_is_none():
    null = lambda mean: Null(torch.tensor([mean]), torch.tensor([0.2]), {(1, 2): 0})  # noqa: E731
    assert drive(subject(), square(40.0), null(0.1))[0].works
    assert not drive(subject(), square(40.0), null(0.9))[0].works


def test_the_sweet_spot_ends_where_surprise_begins():
    found = [Measured(raw=r, effect=r / 40, kl=(r / 40) ** 2, surprise=s, repetition=0) for r, s in
             ((10, 0.1), (20, 0.2), (30, 0.7), (38, 1.0))]  # fmt: skip
    spot = measure._sweet_spot(found, 1, 38, "", 16)
    assert spot.high == pytest.approx(20 / 38, abs=0.05)
    assert 0 < spot.low < 0.2


def test_a_real_model_is_measured_many_pushes_at_once(llama, sae):
    g = torch.Generator().manual_seed(1)
    rows = [tuple(torch.randint(5, 97, (6,), generator=g).tolist()) for _ in range(4)]
    stage = Rollouts.prepare(llama, "layers.1", [EncodedChat(r, (False,) * 5 + (True,), "") for r in rows], tokens=8)
    words = [torch.tensor([i, i + 1]) for i in (10, 20, 30, 40, 50)]
    null = Null.measure(stage, words, 4.0)
    done = []
    subjects = [Subject(pushes_along(sae.W_dec[i]), w, 1.0, 40.0) for i, w in enumerate(words)]
    found = calibrate(stage, subjects, null, at_once=3, stamp=("2026-01-01", "r1"), on_progress=done.append)
    assert done == [1, 2, 3, 4, 5]
    for subject_, one in zip(subjects, found, strict=True):
        assert len(one.calibration.points) <= 8
        assert one.dose == pytest.approx(one.calibration.knots[-1][1], rel=1e-3)
        (again,) = stage.run([subject_.push(one.dose)])
        best = next((p for p in one.calibration.points if math.isclose(p.raw, one.dose, rel_tol=1e-3)), None)
        if best:
            assert float(again.kl.quantile(0.95)) == pytest.approx(best.kl, abs=0.02)
    assert FORWARD + measure.BACKWARD == 8
