"""Calibration curve: dose and raw strength are inverses of each other, whatever the knots."""

import pytest

from steering.calibration import SweetSpot, dose_at, raw_at

CURVE = ((-1.0, -30.0), (-0.5, -20.0), (0.0, 0.0), (0.25, 16.0), (0.5, 28.0), (1.0, 40.0))


@pytest.mark.parametrize("dose", [-2.0, -1.0, -0.7, -0.1, 0.0, 0.1, 0.25, 0.6, 1.0, 1.7])
def test_a_dose_comes_back_from_its_raw_strength(dose):
    assert dose_at(raw_at(dose, CURVE), CURVE) == pytest.approx(dose)


def test_knots_are_met_and_between_them_the_line():
    assert raw_at(0.5, CURVE) == 28.0
    assert raw_at(0.75, CURVE) == 34.0
    assert raw_at(0.0, CURVE) == 0.0


def test_beyond_the_last_knot_a_dose_is_a_multiple_of_one():
    assert raw_at(2.0, CURVE) == 80.0
    assert raw_at(-1.5, CURVE) == -45.0


def test_where_one_sign_was_measured_the_other_goes_on_as_it_began():
    one = ((0.0, 0.0), (0.5, 28.0), (1.0, 40.0))
    assert raw_at(-0.5, one) == -28.0
    assert dose_at(-28.0, one) == -0.5


def test_a_sweet_spot_holds_its_ends():
    spot = SweetSpot(low=-1.0, high=-0.2)
    assert spot.holds(-1.0)
    assert spot.holds(-0.2)
    assert not spot.holds(0.2)
