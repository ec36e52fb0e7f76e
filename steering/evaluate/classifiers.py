"""Linear classifiers: L2-regularised logistic regressions for several targets, and AUROC with a bootstrap interval.

A label that is NaN excludes its row from that target. The penalty of each target is chosen on a fifth of the rows.
AUROC is the probability that a positive row is ranked above a negative one; its interval is of a thousand bootstrap
resamples of the rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
STEPS = 80
RESAMPLES = 1000
VALIDATED = 5
"""Every n-th row is used for validation of the penalty."""


class Auroc(BaseModel):
    """AUROC with its 95 % interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Detector:
    """Weights of several targets; the log-odds of each are `row @ weights + bias`."""

    weights: Float[Tensor, "d targets"]
    bias: Float[Tensor, " targets"]

    def odds(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n targets"]:
        """Return the log-odds of each target."""
        return rows @ self.weights + self.bias


def fit_cross_validated(rows: Float[Tensor, "n d"], labels: Float[Tensor, "n targets"]) -> Detector:
    """Fit each target with the penalty that has the best AUROC on the validation rows."""
    aside = torch.arange(len(rows)) % VALIDATED == 0
    tried = []
    for penalty in PENALTIES:
        found = fit_logistic(rows[~aside], labels[~aside], torch.full((labels.shape[1],), penalty))
        odds = found.odds(rows[aside])
        tried.append([_auroc_of_labelled(odds[:, i], labels[aside, i]) for i in range(labels.shape[1])])
    best = torch.tensor(tried).argmax(0)
    return fit_logistic(rows, labels, torch.tensor(PENALTIES)[best])


def fit_logistic(
    rows: Float[Tensor, "n d"],
    labels: Float[Tensor, "n targets"],
    penalties: Float[Tensor, " targets"],
    *,
    share: Float[Tensor, "n targets"] | None = None,
    steps: int = STEPS,
) -> Detector:
    """Minimise each target's loss plus half its penalty times the squared norm of its weights.

    The loss is the mean over the labelled rows, or the sum over all rows weighted by `share`.
    """
    known = ~labels.isnan()
    weight = known / known.sum(0).clamp(min=1) if share is None else share
    y = labels.nan_to_num()

    def objective(w: Tensor) -> Tensor:
        return logistic_objective(rows @ w[:-1] + w[-1], y, weight, w, penalties)

    w = minimize(objective, rows.new_zeros(rows.shape[1] + 1, labels.shape[1]), steps=steps)
    return Detector(w[:-1], w[-1])


def logistic_objective(odds: Tensor, labels: Tensor, share: Tensor, w: Tensor, penalties: Tensor | float) -> Tensor:
    """Return the weighted cross-entropy plus the penalty on all weights but the last row of `w`, the bias."""
    each = torch.nn.functional.binary_cross_entropy_with_logits(odds, labels, reduction="none")
    return (share * each).sum() + 0.5 * (penalties * w[:-1].pow(2).sum(0)).sum()


def minimize(objective: Callable[[Tensor], Tensor], start: Tensor, *, steps: int = STEPS) -> Tensor:
    """Return the parameters at the minimum that L-BFGS finds from `start`."""
    w = start.detach().clone().requires_grad_()
    search = torch.optim.LBFGS([w], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        value = objective(w)
        value.backward()
        return value

    with torch.enable_grad():
        search.step(closure)  # pyright: ignore[reportArgumentType] - a closure may return a tensor
    return w.detach()


def auroc(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the probability that a positive row is ranked above a negative one; a tie counts a half, chance is 0.5."""
    n, m = int(labels.sum()), int((~labels).sum())
    return float((_ranks(scores)[labels].sum() - n * (n + 1) / 2) / (n * m)) if n and m else 0.5


def auroc_with_interval(scores: NDArray[np.float64], labels: NDArray[np.bool_], *, seed: int = 0) -> Auroc:
    """Return AUROC with its interval; resampling is stratified by label."""
    draw = np.random.default_rng(seed)
    yes, no = scores[labels], scores[~labels]
    if not len(yes) or not len(no):
        return Auroc(value=0.5, low=0.0, high=1.0)
    marks = np.arange(len(scores)) < len(yes)
    found = [
        auroc(np.concatenate([draw.choice(yes, len(yes)), draw.choice(no, len(no))]), marks) for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return Auroc(value=round(auroc(scores, labels), 4), low=round(float(low), 4), high=round(float(high), 4))


def _auroc_of_labelled(odds: Tensor, labels: Tensor) -> float:
    some = ~labels.isnan()
    return auroc(odds[some].double().numpy(), labels[some].numpy() > 0.5)


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1 on; equal values share their mean rank."""
    _, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[where]
