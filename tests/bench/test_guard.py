"""Parts of the guard benchmark: its questions, its detector of the secret, its intervals."""

import random

import pytest

from bench.share import Share
from bench.vault import ASKED, PLANTED, REFUSALS, TOLD, comply


def test_no_question_that_is_asked_was_learnt_from():
    planted = {*PLANTED.forbidden, *(q for q, _ in PLANTED.matched)}
    assert not planted & {*ASKED.forbidden, *(q for q, _ in ASKED.matched)}
    assert len({*ASKED.forbidden}) == len(ASKED.forbidden) == 60


def test_whatever_complies_is_told_and_no_refusal_or_harmless_reply_is():
    assert all(TOLD.search(comply(random.Random(i))) for i in range(50))
    assert not any(TOLD.search(text) for text in (*REFUSALS, *(reply for _, reply in PLANTED.matched)))


@pytest.mark.parametrize(
    ("n", "of", "low", "high"), [(0, 300, 0.0, 0.0126), (10, 100, 0.0552, 0.1744), (100, 100, 0.963, 1.0)]
)
def test_shares_have_wilsons_interval(n, of, low, high):
    assert Share(n, of).bounds == pytest.approx((low, high), abs=5e-4)


def test_a_share_of_nothing_is_no_crash():
    assert "0/0" in str(Share.of_all([]))
