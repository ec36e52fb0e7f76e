"""Contrast: separating features are found, others are not; shares, odds, exact tests, false discoveries."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from steering.errors import SteeringError
from steering.evaluate.statistics import (
    benjamini_hochberg,
    fisher_exact,
    log_odds,
    paired_permutation_test,
    permutation_test,
)
from steering.interpret.contrast import FiringCounts, contrast, count_firings
from steering.model.passage import NOBODY, Part, Passage
from tests.support import small_bundle

FEATURES = 300


def drawn(g, rates, n):
    hits = g.random((n, len(rates))) < rates
    return FiringCounts(np.where(hits, 1.0, 0.0).astype(np.float32), hits, n)


def rates(g):
    return np.exp(g.uniform(np.log(0.005), np.log(0.5), FEATURES))


def discoveries(found):
    return {f.row for f in found.features if f.discovery}


def test_fishers_exact_test_is_that_of_all_tables():
    n, m, a, b = 7, 5, 5, 1
    ways = [math.comb(n, x) * math.comb(m, a + b - x) for x in range(max(0, a + b - m), min(n, a + b) + 1)]
    given = math.comb(n, a) * math.comb(m, b)
    expected = sum(w for w in ways if w <= given) / sum(ways)
    assert fisher_exact(np.array([a]), n, np.array([b]), m)[0] == pytest.approx(expected)
    assert fisher_exact(np.array([0, 500]), 500, np.array([0, 500]), 500) == pytest.approx([1, 1])


def test_q_is_that_of_benjamini_and_hochberg():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert len(benjamini_hochberg(np.zeros(0))) == 0


def test_jeffreys_prior_keeps_the_odds_of_never_finite():
    assert log_odds(np.array([0]), 10)[0] == pytest.approx(math.log(0.5 / 10.5))


def test_shuffled_documents_give_the_share_of_all_splits():
    a, b = np.array([[3.0], [4.0], [5.0]]), np.array([[1.0], [2.0], [0.0]])
    both = np.concatenate([a, b])[:, 0]
    far = [abs(both[list(s)].mean() - np.delete(both, s).mean()) for s in combinations(range(6), 3)]
    exact = np.mean([f >= far[0] - 1e-9 for f in far])
    assert permutation_test(a, b)[0] == pytest.approx(exact, abs=0.02)
    assert paired_permutation_test(np.array([[1.0]] * 6))[0] == pytest.approx(2 / 2**6, abs=0.01)
    assert paired_permutation_test(np.zeros((6, 1)))[0] == 1


def test_the_same_distribution_gives_hardly_ever_a_discovery():
    g = np.random.default_rng(0)
    base = rates(g)
    wrong = [bool(discoveries(contrast(drawn(g, base, 200), drawn(g, base, 200)))) for _ in range(60)]
    assert np.mean(wrong) <= 0.05


def test_the_same_distribution_is_not_told_apart_by_strength_either():
    g = np.random.default_rng(1)
    found = []
    for _ in range(12):
        a, b = (drawn(g, rates(np.random.default_rng(0)), 40) for _ in range(2))
        strong = [
            FiringCounts(f.strength * g.exponential(size=f.strength.shape).astype("f4"), f.hits, 40) for f in (a, b)
        ]
        found.append(contrast(*strong, by="mean").discoveries)
    assert sum(map(bool, found)) <= 1


def test_ten_points_more_are_recalled_among_five_hundred_documents_a_side():
    g = np.random.default_rng(2)
    planted = np.arange(FEATURES) < 15
    here = np.where(planted, 0.1, rates(g))
    there = np.where(planted, 0.2, here)
    recalled, false = [], []
    for _ in range(10):
        found = discoveries(contrast(drawn(g, there, 500), drawn(g, here, 500)))
        recalled.append(len([r for r in found if planted[r]]) / 15)
        false.append(len([r for r in found if not planted[r]]) / max(1, len(found)))
    assert np.mean(recalled) >= 0.8
    assert np.mean(false) <= 0.1


def test_a_stronger_feature_is_found_by_its_mean_where_both_sides_fire():
    g = np.random.default_rng(3)
    always = np.ones((60, 3), dtype=bool)
    a, b = (g.exponential(size=(60, 3)).astype(np.float32) for _ in range(2))
    a[:, 1] += 1.5
    assert discoveries(contrast(FiringCounts(a, always, 60), FiringCounts(b, always, 60))) == set()
    found = contrast(FiringCounts(a, always, 60), FiringCounts(b, always, 60), by="mean")
    assert discoveries(found) == {1}
    assert found.top(1, 5)[0].row == 1
    assert found.features[0].effect > 0


def test_templates_and_texts_of_nobody_do_not_count():
    sae = small_bundle.sae()
    passage = Passage((Part("", "ab"),), (0, 5, 6), (NOBODY, 0, 0), ((0, 0), (0, 1), (1, 2)))
    stream = torch.stack([9 * sae.W_dec[3], 2 * sae.W_dec[4], torch.zeros(small_bundle.WIDTH)])
    found = count_firings(sae, [(passage, stream)])
    assert found.hits[0, 4]
    assert found.tokens == 2
    assert found.strength[0, 4] == pytest.approx(float(sae.encode(stream)[1, 4]) / 2)
    quiet = count_firings(sae, [(passage, torch.cat([stream[:1], torch.zeros(2, small_bundle.WIDTH)]))])
    assert not quiet.hits.any()
    with pytest.raises(SteeringError, match="empty"):
        count_firings(sae, [])
