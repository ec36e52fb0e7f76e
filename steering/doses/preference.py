"""Which dose somebody likes: a bandit over the doses of one slider. Knows votes and doses; nothing of users, stores or models.

The state is the list of votes, so taking one back is leaving it out. Doses lie on a grid within the slider's range.
Each has a Beta posterior of being liked; a vote counts for its own dose and, less, for those near it. The dose to try
next is drawn from the posteriors (Thompson 1933), with the number of votes as the seed: the same votes, the same dose.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GRID = 9
"""Doses that are told apart."""
WIDTH = 0.1
"""Of the range: how far a vote reaches."""
SHARP = 4.0
"""Doses near each other are liked alike, so each is surer than its own votes say; of 1, 2 and 4, 4 learnt fastest."""
PRIOR = 0.5
"""A half of a vote for and one against each dose, and as much again for the dose that one begins with."""


@dataclass(frozen=True)
class Vote:
    """Somebody liked a dose, or didn't."""

    dose: float
    liked: float
    """1 for yes, 0 for no."""
    weight: float = 1.0
    """How much it says: a thumb 1, each side of a comparison 1, a moved slider less."""


@dataclass(frozen=True)
class Range:
    """Where a slider's default may be, and where it begins."""

    low: float
    high: float
    start: float

    @property
    def grid(self) -> tuple[float, ...]:
        """The doses that are told apart; the beginning is one of them."""
        step = (self.high - self.low) / (GRID - 1)
        doses = [self.low + i * step for i in range(GRID)]
        nearest = min(range(GRID), key=lambda i: abs(doses[i] - self.start))
        doses[nearest] = min(self.high, max(self.low, self.start))
        return tuple(round(d, 4) for d in doses)


def preferred_dose(votes: Sequence[Vote], span: Range) -> float:
    """The dose to begin with: the start while nobody voted, then a draw from what the votes say."""
    if not votes or span.high <= span.low:
        return min(span.high, max(span.low, span.start))
    a, b = _posterior(votes, span)
    draws = np.random.default_rng(len(votes)).beta(SHARP * a, SHARP * b)
    return span.grid[int(draws.argmax())]


def liked_most(votes: Sequence[Vote], span: Range) -> float:
    """The dose whose posterior mean is highest: what one has learnt, without trying anything."""
    if not votes or span.high <= span.low:
        return min(span.high, max(span.low, span.start))
    a, b = _posterior(votes, span)
    return span.grid[int((a / (a + b)).argmax())]


def _posterior(votes: Sequence[Vote], span: Range) -> tuple[np.ndarray, np.ndarray]:
    grid = np.array(span.grid)
    a, b = np.full(len(grid), PRIOR), np.full(len(grid), PRIOR)
    a[int(np.abs(grid - span.start).argmin())] += PRIOR
    reach = WIDTH * (span.high - span.low)
    for v in votes:
        near = v.weight * np.exp(-0.5 * ((grid - v.dose) / reach) ** 2)
        a, b = a + near * v.liked, b + near * (1 - v.liked)
    if not (math.isfinite(float(a.sum())) and math.isfinite(float(b.sum()))):
        raise ValueError("a vote holds NaN or infinity")
    return a, b
