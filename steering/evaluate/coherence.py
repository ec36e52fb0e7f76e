"""Coherence of a reply: whether it reads as fluent, strained or broken.

The verdict comes from an ordinal logistic regression (proportional odds; McCullagh 1980) on four figures of the text
and of its token log-probabilities under the unsteered model. It was fitted to replies that two readers labelled without
knowing how they were made; `python -m bench.badge` scores it on the labels that it was not fitted to.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel

from steering.evaluate.words import split_words

Verdict = Literal["ok", "strained", "broken"]
"""`ok`: reads as fluent."""
WINDOW = 12
"""Tokens of the stretch whose mean log-probability counts where it is lowest."""


class Figures(NamedTuple):
    """What the verdict depends on."""

    worst: float
    """Lowest mean log-probability of `WINDOW` successive tokens, nats per token."""
    mean: float
    """Mean log-probability, nats per token."""
    repetition: float
    """Share of word 3-grams that occur more than once."""
    letters: float
    """Share of letters and spaces in the text."""


class Ordinal(NamedTuple):
    """Proportional odds: P(worse than fluent) = σ(w·f − strained), P(broken) = σ(w·f − broken)."""

    weights: Figures
    strained: float
    broken: float


FITTED = Ordinal(Figures(-1.69, -0.43, 9.832, -17.451), -9.123, -6.353)
"""Fitted by `python -m bench.badge --fit` to SmolLM2-135M-Instruct; both cuts weigh the two sides alike."""


class Coherence(BaseModel):
    """`repetition`: share of word 3-grams that occur more than once. `mean_logprob_unsteered`: nats per token.
    `fluency`: the probability that readers call it fluent; its mean over replies is the expected share of fluent ones.
    """

    repetition: float
    mean_logprob_unsteered: float
    fluency: float = 1.0
    verdict: Verdict


def judge(text: str, logprobs: Sequence[float]) -> Coherence:
    """Judge a reply by its text and by each token's log-probability under the unsteered model."""
    return coherence(figures(text, logprobs))


def figures(text: str, logprobs: Sequence[float]) -> Figures:
    """Return the figures of one reply; of a reply without tokens, those of a certain one."""
    if not logprobs:
        return Figures(0.0, 0.0, rep3(text), 1.0)
    starts = range(max(1, len(logprobs) - WINDOW + 1))
    worst = min(sum(logprobs[i : i + WINDOW]) / len(logprobs[i : i + WINDOW]) for i in starts)
    letters = sum(c.isalpha() or c.isspace() for c in text) / len(text) if text else 1.0
    return Figures(worst, sum(logprobs) / len(logprobs), rep3(text), letters)


def mean_figures(replies: Sequence[Figures]) -> Figures:
    """Return the mean of several replies' figures."""
    return Figures(*(sum(column) / len(replies) for column in zip(*replies, strict=True)))


def coherence(f: Figures, fitted: Ordinal = FITTED) -> Coherence:
    """Return the verdict on figures that are already computed."""
    score = sum(w * x for w, x in zip(fitted.weights, f, strict=True))
    verdict: Verdict = "broken" if score > fitted.broken else "strained" if score > fitted.strained else "ok"
    return Coherence(
        repetition=round(f.repetition, 3),
        mean_logprob_unsteered=round(f.mean, 3),
        fluency=round(1 / (1 + math.exp(min(50.0, score - fitted.strained))), 3),
        verdict=verdict,
    )


def rep3(text: str | Sequence[Hashable]) -> float:
    """Share of 3-grams that occur more than once: of a text's words, or of given tokens."""
    tokens = split_words(text.lower()) if isinstance(text, str) else text
    grams = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return sum(n for n in grams.values() if n > 1) / grams.total() if grams else 0.0
