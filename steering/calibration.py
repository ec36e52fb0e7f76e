"""Calibration of a feature's doses: the dose–response curve, its inverse, and the sweet spot. Pure values, no tensors.

Dose 1.0 is the largest push at which nine of ten replies still read as fluent. `knots` are pairs (dose, raw strength),
both increasing, through (0, 0); older calibrations (`method` "kl") have more of them, which make a slider linear in its
effect, and their dose 1.0 is the push at which KL divergence reaches one nat.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

Knots = Sequence[tuple[float, float]]
Limit = Literal["fluency", "length", "kl", "repetition"]
Method = Literal["fluency", "kl"]


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
    """One evaluation: what a push did on the fixed prompts. Effect and KL are defined by the calibration's method."""

    model_config = ConfigDict(frozen=True)

    raw: float
    effect: float
    """Share of the replies that show the feature where the unsteered model reads them, minus that of unsteered replies.
    With method "kl": log-odds of the feature's words, minus the unsteered model's, in nats.
    """
    kl: float | None = None
    """KL divergence of the next-token distribution from the unsteered one, nats: with method "kl" the 95th percentile
    over tokens, with method "fluency" not measured.
    """
    surprise: float
    """Mean log-probability under the unsteered model, unsteered replies minus steered ones, in nats per token; below 0
    the steered replies are the likelier ones.
    """
    repetition: float
    """Share of 3-grams of tokens that occur more than once, minus that of the unsteered model."""
    z: float = 0.0
    """The effect, in standard deviations of random pushes' effects."""
    fluent: float | None = None
    """Expected share of replies that readers call fluent."""
    n: int = 0
    """Number of replies."""


class Calibration(BaseModel):
    """All measurements of one feature, or of a preset's scale."""

    model_config = ConfigDict(frozen=True)

    knots: tuple[tuple[float, float], ...] = ()
    points: tuple[Measured, ...] = ()
    words: tuple[str, ...] = ()
    """Words by which the effect was measured, with method "kl"."""
    method: Method = "kl"
    """How dose 1.0 is defined."""
    works: bool = False
    """Whether there is a measurable effect that random pushes at their own dose 1.0 do not have."""
    z: float = 0.0
    """The effect at dose 1.0, in standard deviations of the random pushes' effects."""
    p: float | None = None
    """One-sided p-value of that; `works` holds the false discovery rate over all features measured together."""
    interval: tuple[float, float] | None = None
    """90 % interval of dose 1.0, relative to it."""
    replies: int = 0
    """Number of replies from which dose 1.0 was found."""
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
