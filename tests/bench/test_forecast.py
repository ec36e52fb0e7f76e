"""The forecast's comparison with readers, and the mixes that it is read on."""

import random

import pytest

from bench import forecast
from bench.blind import Reading
from steering.catalogue.bundle import Bundle
from steering.catalogue.composition import compose
from steering.catalogue.resolve import Catalogue
from tests.support.paths import ROOT


def reading(load, grade):
    return Reading("mix", load, "q", "text", grade, "none", answers=True)


def test_lines_lie_where_readers_change_their_grade():
    readings = [reading(load, "F" if load < 1 else "S" if load < 2 else "B") for load in (0.0, 0.5, 1.5, 1.8, 2.5, 3.0)]
    assert forecast.fitted(readings) == forecast.Lines(1.0, 2.15)


def test_a_forecast_that_says_what_readers_say_is_perfect():
    readings = [reading(load, "F" if load < 1 else "B") for load in (0.0, 0.5, 0.7, 2.5, 2.7, 3.0)]
    found = forecast.score(readings, forecast.Lines(1.0, 2.0))
    assert found.broken == 1
    assert found.rank > 0.8
    assert (found.safe_not_broken.n, found.safe_not_broken.of) == (2, 2)


def test_a_forecast_that_is_wrong_half_the_time_is_worth_nothing():
    readings = [reading(load, grade) for load in (0.5, 3.0) for grade in "FB"]
    assert forecast.score(readings, forecast.Lines(1.0, 2.0)).broken == pytest.approx(0.5)


def test_mixes_have_the_loads_that_are_asked_for():
    bundle = Bundle.open(ROOT / "sae_weights" / "smollm2")
    ready = [f for f in bundle.features if f.calibration and f.calibration.works][:3]
    spec = forecast.mix(bundle, ready, 1.3, random.Random(0))
    assert len(spec.features) == 3
    assert compose(Catalogue([bundle]).resolve(spec), bundle).load == pytest.approx(1.3, abs=0.01)
    assert not forecast.mix(bundle, ready, 0.0, random.Random(0)).features
