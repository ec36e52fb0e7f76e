"""What was measured of a feature's doses: the curve, its inverse, and where it is sweet. Pure values, no tensors.

Dose 1.0 is the largest push at which replies hold; between 0 and 1 the curve's inverse makes a slider honest: at
0.5 half of the effect that 1.0 has. `knots` are pairs (dose, raw strength) that rise together, through (0, 0).
"""

import itertools
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

Knots = Sequence[tuple[float, float]]
Limit = Literal["kl", "repetition", "length"]


class SweetSpot(BaseModel):
    """The measured interval of doses in which the concept shows and the reply is still good."""

    model_config = ConfigDict(frozen=True)

    low: float
    high: float
    method: str = ""
    n: int = 0
    """How many prompts."""
    date: str = ""

    def holds(self, dose: float) -> bool:
        """Whether a dose lies in it."""
        return self.low - 1e-9 <= dose <= self.high + 1e-9


class Measured(BaseModel):
    """One evaluation: what a push did on the fixed prompts."""

    model_config = ConfigDict(frozen=True)

    raw: float
    effect: float
    """Log-odds of the feature's words, over the unsteered model's."""
    kl: float
    """95th percentile over tokens, nats: how far the next token's distribution is from the unsteered one."""
    surprise: float
    """How much less likely the steered words are to the unsteered model than its own, nats a token; below 0: more."""
    repetition: float
    """Share of 3-grams of tokens that occur again, over the unsteered model's."""


class Calibration(BaseModel):
    """All that was measured of one feature, or of a preset's scale."""

    model_config = ConfigDict(frozen=True)

    knots: tuple[tuple[float, float], ...] = ()
    points: tuple[Measured, ...] = ()
    words: tuple[str, ...] = ()
    """What its effect was measured by: words that come where it fires, in a corpus."""
    works: bool = False
    """Whether an effect could be measured that a random direction of the same KL does not have."""
    z: float = 0.0
    """That effect, in standard deviations of the random directions'."""
    limited_by: Limit = "kl"
    """What kept dose 1.0 from being larger."""
    negative: SweetSpot | None = None
    """For doses below 0, as `SweetSpot` for those above."""
    revision: str = ""
    """Of the SAE on which it was measured."""


def raw_at(dose: float, knots: Knots) -> float:
    """The raw strength of a dose; beyond the last knots, along the line through 0."""
    return _along(dose, knots)


def dose_at(raw: float, knots: Knots) -> float:
    """The dose of a raw strength."""
    return _along(raw, [(r, d) for d, r in knots])


def _along(x: float, knots: Knots) -> float:
    (first, low), (last, high) = knots[0], knots[-1]
    if first < 0 and x < first:
        return low * x / first
    if last > 0 and x > last:
        return high * x / last
    pairs = list(itertools.pairwise(knots))
    # Where only one sign was measured, the other goes on with the slope at 0.
    (a, b), (c, d) = next((p for p in pairs if x <= p[1][0]), pairs[-1])
    return b + (d - b) * (x - a) / (c - a)
