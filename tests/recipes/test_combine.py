"""Combination of features: planted ones are found, with their weights, and those that are not allowed are not used."""

import pytest
import torch
from torch.nn.functional import normalize

from recipes.smollm2.combine import combine

DECODER = normalize(torch.randn(40, 64, generator=torch.Generator().manual_seed(0)), dim=1)
ALL = torch.ones(40, dtype=torch.bool)


def test_planted_features_are_found_with_their_weights():
    found = combine(DECODER[3] + 0.5 * DECODER[7], DECODER, torch.rand(40) + 0.1, ALL, most=2)
    assert found.rows == (3, 7)
    assert found.weights[1] / found.weights[0] == pytest.approx(0.5, abs=1e-4)
    assert found.cosine == pytest.approx(1.0, abs=1e-5)


def test_a_feature_that_is_not_allowed_or_not_more_active_is_not_used():
    allowed, contrast = ALL.clone(), torch.ones(40)
    allowed[3], contrast[7] = False, -1.0
    found = combine(DECODER[3] + DECODER[7] + DECODER[9], DECODER, contrast, allowed, most=4)
    assert not {3, 7} & {*found.rows}
    assert 9 in found.rows


def test_no_weight_is_below_zero_and_every_feature_adds_to_the_cosine():
    g = torch.Generator().manual_seed(1)
    for _ in range(5):
        direction = torch.randn(64, generator=g)
        found = [combine(direction, DECODER, torch.ones(40), ALL, most=n) for n in (1, 2, 4)]
        assert all(w > 0 for c in found for w in c.weights)
        assert found[0].cosine <= found[1].cosine <= found[2].cosine


def test_without_any_candidate_it_says_so():
    with pytest.raises(ValueError, match="no allowed feature"):
        combine(DECODER[0], DECODER, -torch.ones(40), ALL)
