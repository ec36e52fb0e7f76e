"""Calibration of a feature's doses: the dose–response curve, its inverse, and the sweet spot. Pure values, no tensors.

Dose 1.0 is the largest push at which replies stay coherent. Between 0 and 1 the inverse of the curve makes a slider
linear in its effect: 0.5 has half of the effect of 1.0. `knots` are pairs (dose, raw strength), both increasing,
through (0, 0).
"""

import itertools
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

Knots = Sequence[tuple[float, float]]
Limit = Literal["kl", "repetition", "length"]


class SweetSpot(BaseModel):
    """Interval of doses, as measured, in which the concept shows and the reply is still coherent."""

    model_config = ConfigDict(frozen=True)

    low: float
    high: float
    method: str = ""
    n: int = 0
    """Number of prompts."""
    date: str = ""

    def holds(self, dose: float) -> bool:
        """Whether `dose` is inside the interval."""
        return self.low - 1e-9 <= dose <= self.high + 1e-9


class Measured(BaseModel):
    """One evaluation: what a push did on the fixed prompts."""

    model_config = ConfigDict(frozen=True)

    raw: float
    effect: float
    """Log-odds of the feature's words, minus those of the unsteered model; nats."""
    kl: float
    """KL divergence of the next-token distribution from the unsteered one: 95th percentile over tokens, nats."""
    surprise: float
    """Mean log-probability under the unsteered model, unsteered replies minus steered ones, in nats per token; below 0
    the steered replies are the likelier ones.
    """
    repetition: float
    """Share of 3-grams of tokens that occur more than once, minus that of the unsteered model."""


class Calibration(BaseModel):
    """All measurements of one feature, or of a preset's scale."""

    model_config = ConfigDict(frozen=True)

    knots: tuple[tuple[float, float], ...] = ()
    points: tuple[Measured, ...] = ()
    words: tuple[str, ...] = ()
    """Words by which the effect was measured: those that occur where the feature fires, in a corpus."""
    works: bool = False
    """Whether there is a measurable effect that a random direction of the same KL does not have."""
    z: float = 0.0
    """The effect, in standard deviations of the random directions' effects."""
    limited_by: Limit = "kl"
    """What kept dose 1.0 from being larger."""
    negative: SweetSpot | None = None
    """Sweet spot of the doses below 0."""
    revision: str = ""
    """Revision of the SAE on which it was measured."""


def raw_at(dose: float, knots: Knots) -> float:
    """Return the raw strength of a dose; beyond the outermost knots, on the line through 0."""
    return _along(dose, knots)


def dose_at(raw: float, knots: Knots) -> float:
    """Return the dose of a raw strength; the inverse of `raw_at`."""
    return _along(raw, [(r, d) for d, r in knots])


def _along(x: float, knots: Knots) -> float:
    (first, low), (last, high) = knots[0], knots[-1]
    if first < 0 and x < first:
        return low * x / first
    if last > 0 and x > last:
        return high * x / last
    pairs = list(itertools.pairwise(knots))
    # Where only one sign was measured, the other one is extrapolated with the slope at 0.
    (a, b), (c, d) = next((p for p in pairs if x <= p[1][0]), pairs[-1])
    return b + (d - b) * (x - a) / (c - a)
