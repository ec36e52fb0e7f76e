"""Directions from rows: planted directions are found, chance has an AUROC of chance, equal sets are refused."""

import pytest
import torch

from steering.errors import SteeringError
from steering.interpret.directions import diff_mean, probe

WIDTH = 32


@pytest.fixture
def planted():
    g = torch.Generator().manual_seed(0)
    u = torch.nn.functional.normalize(torch.randn(WIDTH, generator=g), dim=0)
    rows = torch.randn(128, WIDTH, generator=g) + 3
    return u, rows[:64] + 4 * u, rows[64:]


@pytest.mark.parametrize(("make", "least"), [(diff_mean, 0.95), (probe, 0.95)])
def test_a_planted_direction_is_found_and_tells_held_out_rows_apart(planted, make, least):
    u, a, b = planted
    found = make(a, b)
    assert float(found.direction @ u) > least
    assert float(found.direction.norm()) == pytest.approx(1, abs=1e-5)
    assert found.auroc > 0.97
    assert found.distance == pytest.approx(4, abs=0.7)


@pytest.mark.parametrize("make", [diff_mean, probe])
def test_rows_of_one_kind_are_told_apart_no_better_than_chance(make):
    rows = torch.randn(128, WIDTH, generator=torch.Generator().manual_seed(1))
    assert make(rows[:64], rows[64:]).auroc == pytest.approx(0.5, abs=0.15)


def test_a_probe_meets_its_boundary_between_the_two(planted):
    _, a, b = planted
    found = probe(a, b)
    assert (a @ found.direction > found.middle).float().mean() > 0.95
    assert (b @ found.direction < found.middle).float().mean() > 0.95


def test_a_probe_sees_past_a_loud_dimension_that_says_nothing():
    g = torch.Generator().manual_seed(2)
    rows = torch.randn(64, 8, generator=g) * torch.tensor([20.0, *[1.0] * 7])
    a, b = rows[:32].clone(), rows[32:].clone()
    a[:, 3] += 6
    a[:, 0] += 4  # by chance
    assert abs(float(probe(a, b).direction[3])) > abs(float(diff_mean(a, b).direction[3]))


@pytest.mark.parametrize("make", [diff_mean, probe])
def test_the_same_rows_in_another_order_give_no_direction(planted, make):
    _, a, _ = planted
    with pytest.raises(SteeringError, match="no direction"):
        make(a, a.flip(0))


def test_too_few_rows_are_not_judged(planted):
    _, a, b = planted
    assert diff_mean(a[:2], b[:2]).auroc is None
    assert probe(a[:1], b[:1]).auroc is None
