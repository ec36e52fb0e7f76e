"""The verdict agrees with two readers on the replies that it was not fitted to, and its constants are the fit's."""

import pytest

from bench.badge import fit, load, score
from steering.evaluate.coherence import FITTED, coherence


@pytest.fixture(scope="module")
def replies():
    return load()


def test_broken_replies_are_told_from_others_as_readers_do(replies):
    found = score(replies[1::2])
    assert found.broken >= 0.85
    assert found.rank >= 0.7
    assert found.readers >= 0.85, "labels on which readers disagree are no measure"


def test_the_constants_are_those_of_the_fit(replies):
    again = fit(replies[::2])
    assert again.weights == pytest.approx(FITTED.weights, rel=0.02)
    assert (again.strained, again.broken) == pytest.approx((FITTED.strained, FITTED.broken), rel=0.02)


def test_the_expected_share_of_fluent_replies_is_that_of_readers_at_every_strength(replies):
    """Doses are found by that share: it may not be off where nine of ten replies are fluent."""
    for strength in sorted({r.strength for r in replies}):
        some = [r for r in replies if r.strength == strength]
        read = sum(r.grade < 0.5 for r in some) / len(some)
        expected = sum(coherence(r.figures).fluency for r in some) / len(some)
        assert expected == pytest.approx(read, abs=0.03 if strength < 0.3 else 0.1), strength


def test_labels_in_another_order_are_no_labels(replies):
    """Null: the verdict against other replies' grades."""
    from dataclasses import replace

    moved = [replace(r, grades=o.grades) for r, o in zip(replies, replies[7:] + replies[:7], strict=True)]
    assert abs(score(moved).rank) < 0.15
    assert score(moved).broken < 0.6
