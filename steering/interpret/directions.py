"""Directions from examples: difference of means and logistic-regression probe, with held-out AUROC.

`diff_mean` is the difference of the two means. `probe` is a logistic regression that separates the two sets: its
direction is better for detection than for steering, and it has a boundary, so that it can be clamped and ablated like a
feature. Both report AUROC on held-out rows over folds: 0.5 is chance, and then the direction means nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steering.errors import SteeringError
from steering.evaluate.classifiers import auroc, fit_logistic

Method = Literal["diffmean", "probe"]
FOLDS = 5
LEAST = 4
"""Least number of rows of each set with which rows are held out."""
SAME = 1e-4
"""Share of the rows' typical norm below which a difference of means counts as rounding error."""
RIDGE = 0.01
STEPS = 200


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit direction, with its boundary and the distance of the means."""

    direction: Float[Tensor, " d_in"]
    middle: float
    """Boundary between the two sets, as a projection on the direction."""
    distance: float
    """Distance between their means along it."""
    auroc: float | None = None
    """On held-out rows; None if there were too few to hold any out."""


def diff_mean(a: Float[Tensor, "rows d_in"], b: Float[Tensor, "rows d_in"]) -> Direction:
    """Return the direction from the mean of B to the mean of A. Raises SteeringError if there is none."""
    return _held_out(_diff_mean, _check_shapes(a, b), _check_shapes(b, a))


def probe(a: Float[Tensor, "rows d_in"], b: Float[Tensor, "rows d_in"]) -> Direction:
    """Return the direction of the logistic regression that separates A from B. Raises SteeringError if there is none."""
    return _held_out(_probe, _check_shapes(a, b), _check_shapes(b, a))


METHODS: dict[Method, Callable[[Tensor, Tensor], Direction]] = {"diffmean": diff_mean, "probe": probe}


def _diff_mean(a: Tensor, b: Tensor) -> Direction:
    difference = a.mean(0) - b.mean(0)
    length = float(difference.norm())
    typical = float(torch.cat([a, b]).norm(dim=1).mean())
    if length <= SAME * typical:
        raise SteeringError("no direction leads from b to a: both look the same to the model; give texts that differ")
    unit = difference / length
    return Direction(unit, float(0.5 * (a.mean(0) + b.mean(0)) @ unit), length)


def _probe(a: Tensor, b: Tensor) -> Direction:
    apart = _diff_mean(a, b)  # raises if the means do not differ
    both = torch.cat([a, b])
    centre = both.mean(0)
    rows = both - centre
    scale = rows.norm(dim=1).mean()
    rows = rows / scale
    labels = torch.cat([torch.ones(len(a)), torch.zeros(len(b))]).to(rows)
    share = torch.where(labels > 0, 0.5 / len(a), 0.5 / len(b))
    found = fit_logistic(rows, labels[:, None], rows.new_tensor([RIDGE]), share=share[:, None], steps=STEPS)
    weights = found.weights[:, 0]
    length = weights.norm()
    unit = weights / length
    middle = float(centre @ unit - found.bias[0] * scale / length)
    return replace(apart, direction=unit, middle=middle, distance=float((a.mean(0) - b.mean(0)) @ unit))


def _held_out(make: Callable[[Tensor, Tensor], Direction], a: Tensor, b: Tensor) -> Direction:
    """Compute the direction of all rows, and its AUROC by cross-validation."""
    complete = make(a, b)
    folds = min(FOLDS, len(a), len(b))
    if min(len(a), len(b)) < LEAST:
        return _single(complete)
    highs, lows = [], []
    for k in range(folds):
        mine, theirs = (torch.arange(len(x)) % folds == k for x in (a, b))
        try:
            part = make(a[~mine], b[~theirs])
        except SteeringError:  # no direction without the rows of this fold: scored as chance
            highs.append(torch.zeros(int(mine.sum())))
            lows.append(torch.zeros(int(theirs.sum())))
            continue
        highs.append((a[mine] @ part.direction - part.middle).cpu())
        lows.append((b[theirs] @ part.direction - part.middle).cpu())
    scores = torch.cat(highs + lows).double().numpy()
    return _single(replace(complete, auroc=auroc(scores, np.arange(len(scores)) < len(a))))


def _single(d: Direction) -> Direction:
    return replace(d, direction=d.direction.float())


def _check_shapes(rows: Tensor, other: Tensor) -> Tensor:
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != other.shape[1]:
        raise SteeringError("both sets need rows of one width")
    return rows.detach().double()
