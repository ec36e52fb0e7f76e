"""Preferred dose of a slider from votes: a Thompson-sampling bandit over a grid of doses.

The state is the list of votes, so a vote is withdrawn by leaving it out. Doses are on a grid within the slider's range.
Each has a Beta posterior of being liked; a vote counts for its own dose and, less, for neighbouring ones. The next dose
is drawn from the posteriors (Thompson 1933), with the number of votes as the seed: the same votes, the same dose.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GRID = 9
"""Number of doses on the grid."""
WIDTH = 0.1
"""Width of a vote's kernel, as a share of the range."""
SHARP = 4.0
"""Factor on the posterior's counts: neighbouring doses are liked alike, so each is better known than its own votes
suggest. Of 1, 2 and 4, 4 learnt fastest.
"""
PRIOR = 0.5
"""Half a vote for and half a vote against each dose, and another half for the start."""


@dataclass(frozen=True)
class Vote:
    """A dose that was liked or disliked."""

    dose: float
    liked: float
    """1 for yes, 0 for no."""
    weight: float = 1.0
    """Weight of the vote: a thumb 1, each side of a comparison 1, a moved slider less."""


@dataclass(frozen=True)
class Range:
    """Limits of a slider's default, and its start."""

    low: float
    high: float
    start: float

    @property
    def grid(self) -> tuple[float, ...]:
        """Doses of the grid; the start is one of them."""
        step = (self.high - self.low) / (GRID - 1)
        doses = [self.low + i * step for i in range(GRID)]
        nearest = min(range(GRID), key=lambda i: abs(doses[i] - self.start))
        doses[nearest] = min(self.high, max(self.low, self.start))
        return tuple(round(d, 4) for d in doses)


def preferred_dose(votes: Sequence[Vote], span: Range) -> float:
    """Return the next dose: the start without votes, then a draw from the posteriors."""
    if not votes or span.high <= span.low:
        return min(span.high, max(span.low, span.start))
    a, b = _posterior(votes, span)
    draws = np.random.default_rng(len(votes)).beta(SHARP * a, SHARP * b)
    return span.grid[int(draws.argmax())]


def liked_most(votes: Sequence[Vote], span: Range) -> float:
    """Return the dose with the highest posterior mean, without exploration."""
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
