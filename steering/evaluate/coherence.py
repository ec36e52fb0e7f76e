"""Coherence of a steered reply: repetition, log-probability under the unsteered model, and a verdict."""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

from pydantic import BaseModel

Verdict = Literal["ok", "strained", "broken"]


class Coherence(BaseModel):
    """`repetition`: share of word 3-grams that occur more than once. `mean_logprob_unsteered`: nats per token."""

    repetition: float
    mean_logprob_unsteered: float
    verdict: Verdict


def judge(text: str, logprobs: list[float]) -> Coherence:
    """Judge a reply by its repetition and its log-probability under the unsteered model."""
    return coherence(rep3(text), sum(logprobs) / len(logprobs) if logprobs else 0.0)


def coherence(repetition: float, likely: float) -> Coherence:
    """Return the verdict for figures that are already computed."""
    broken, strained = repetition > 0.4 or likely < -5.0, repetition > 0.2 or likely < -3.5
    verdict: Verdict = "broken" if broken else "strained" if strained else "ok"
    return Coherence(repetition=round(repetition, 3), mean_logprob_unsteered=round(likely, 3), verdict=verdict)


def rep3(text: str | Sequence[Hashable]) -> float:
    """Share of 3-grams that occur more than once: of a text's words, or of given tokens."""
    tokens = re.findall(r"\w+", text.lower()) if isinstance(text, str) else text
    grams = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return sum(n for n in grams.values() if n > 1) / grams.total() if grams else 0.0
