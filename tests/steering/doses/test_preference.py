"""Preferred dose: converges to what the user likes, and is a function of the votes alone."""

import random

import pytest

from steering.doses.preference import Range, Vote, liked_most, preferred_dose

SPAN = Range(0.2, 1.0, 0.6)


def simulated(best, votes, seed, *, noise=0.0):
    """Somebody who likes doses near `best`, asked about the default each time; the mean regret of the last quarter."""
    draw, said, regrets = random.Random(seed), [], []
    chance = lambda dose: max(0.05, 0.95 - 3.0 * abs(dose - best))  # noqa: E731
    for _ in range(votes):
        dose = preferred_dose(said, SPAN)
        regrets.append(chance(best) - chance(dose))
        liked = draw.random() < (0.5 if draw.random() < noise else chance(dose))
        said.append(Vote(dose, float(liked)))
    return sum(regrets[-votes // 4 :]) / (votes // 4), regrets


def test_nobody_voted_is_where_it_begins():
    assert preferred_dose([], SPAN) == liked_most([], SPAN) == 0.6
    assert preferred_dose([], Range(0.2, 0.5, 0.9)) == 0.5


def test_the_same_votes_are_the_same_default():
    votes = [Vote(0.4, 1.0), Vote(0.8, 0.0), Vote(0.5, 1.0)]
    assert preferred_dose(votes, SPAN) == preferred_dose(list(votes), SPAN)


def test_leaving_a_vote_out_is_taking_it_back():
    votes = [Vote(0.4, 1.0), Vote(0.8, 0.0)]
    assert preferred_dose([*votes, Vote(0.9, 1.0)][:-1], SPAN) == preferred_dose(votes, SPAN)


def test_a_default_never_leaves_the_sweet_spot():
    for liked in (0.0, 1.0):
        votes = [Vote(5.0, liked)] * 40
        assert 0.2 <= preferred_dose(votes, SPAN) <= 1.0
        assert liked_most(votes, SPAN) in SPAN.grid


def test_what_is_liked_again_and_again_becomes_the_default():
    votes = [Vote(0.3, 1.0)] * 12 + [Vote(0.9, 0.0)] * 12
    assert liked_most(votes, SPAN) <= 0.45
    assert preferred_dose(votes, SPAN) < 0.6


@pytest.mark.parametrize("best", [0.25, 0.5, 0.8, 1.0])
def test_simulated_users_get_what_they_like(best):
    late = [simulated(best, 80, seed)[0] for seed in range(8)]
    assert sum(late) / len(late) < 0.2


def test_regret_falls():
    runs = [simulated(0.3, 120, seed)[1] for seed in range(12)]
    early = sum(sum(r[:20]) for r in runs) / len(runs) / 20
    late = sum(sum(r[-20:]) for r in runs) / len(runs) / 20
    assert late < 0.6 * early


def test_a_vote_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        preferred_dose([Vote(0.5, float("nan"))], SPAN)
