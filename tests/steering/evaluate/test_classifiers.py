"""Logistic regression and AUROC: the minimum is one, rows without a label do not count, ties count as half."""

import numpy as np
import pytest
import torch

from steering.evaluate.classifiers import auroc, auroc_with_interval, fit_logistic, logistic_objective, minimize


@pytest.fixture
def separable():
    g = torch.Generator().manual_seed(0)
    rows = (torch.rand(200, 10, generator=g) < 0.3).float()
    return rows, (rows[:, [3, 7]].sum(1, keepdim=True) > 0).float()


def test_auroc_is_the_share_of_pairs_in_order_and_a_tie_counts_as_half():
    draw = np.random.default_rng(0)
    scores, labels = draw.integers(0, 6, 60).astype(float), draw.random(60) < 0.4
    high, low = scores[labels], scores[~labels]
    slow = np.mean([(a > b) + 0.5 * (a == b) for a in high for b in low])
    assert auroc(scores, labels) == pytest.approx(slow)
    assert auroc_with_interval(scores, labels).low <= slow <= auroc_with_interval(scores, labels).high
    assert auroc(np.array([1.0, 2.0, 1.0, 0.0]), np.arange(4) < 2) == pytest.approx(0.875)


def test_rows_without_a_label_change_nothing(separable):
    rows, labels = separable
    penalties = torch.tensor([0.01])
    plain = fit_logistic(rows[:100], labels[:100], penalties)
    labels[100:] = torch.nan
    torch.testing.assert_close(fit_logistic(rows, labels, penalties).weights, plain.weights, atol=1e-3, rtol=1e-2)


def test_the_gradient_is_zero_at_the_fitted_weights(separable):
    rows, labels = (t.double() for t in separable)
    share = torch.where(labels > 0, 0.5 / labels.sum(), 0.5 / (1 - labels).sum())
    found = fit_logistic(rows, labels, torch.tensor([0.01]), share=share)
    w = torch.cat([found.weights, found.bias[None]]).requires_grad_()
    logistic_objective(rows @ w[:-1] + w[-1], labels, share, w, 0.01).backward()
    assert w.grad is not None
    assert w.grad.abs().max() < 1e-5


def test_the_start_of_a_minimisation_is_left_as_it_is():
    start = torch.zeros(2)
    found = minimize(lambda w: (w - torch.tensor([1.0, -2.0])).pow(2).sum(), start)
    torch.testing.assert_close(found, torch.tensor([1.0, -2.0]))
    assert start.equal(torch.zeros(2))
