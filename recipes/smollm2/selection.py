"""Selection of the few features that make a persona, by what replies show.

What fires on a subject need not bring it into replies, and a push towards the mean of a subject's texts drags much else
along. So candidates are pushed while the model answers questions about something else: first each alone, then together
with those that are chosen, as long as replies show the subject more often and stay fluent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from steering.doses.measure import pushes_along
from steering.doses.rollouts import Rollouts
from steering.evaluate.coherence import judge

MOST = 4
"""Features of a persona."""
WEIGHTS = (0.5, 1.0)
"""Weights that an added feature may have beside the first one's 1.0."""
BEST = 5
"""Candidates, by what they do alone, that are tried in company."""
LEAST = 0.02
"""Gain of the score for which a feature is added."""
PRICE = 0.10
"""Expected share of fluent replies that a persona may cost."""
BREAKS = 2.0
"""What a lost share of fluent replies beyond the price counts, in shares of replies that show the persona."""
AT_ONCE = 16
"""Pushes in one batch."""
Parts = tuple[tuple[int, float], ...]
"""Rows of the decoder with their weights."""


@dataclass(frozen=True)
class Trial:
    """What replies to one push were: share that shows the subject, and expected share that is fluent."""

    shown: float
    fluent: float
    replies: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Bench:
    """Questions, the model's unsteered replies to them, and the length of the residual stream."""

    stage: Rollouts
    decode: Callable[[list[int]], str]
    typical_norm: float

    @property
    def unsteered_fluent(self) -> float:
        """Expected share of fluent replies without a push."""
        return self._trial(self.stage.plain.replies, self.stage.plain.logprobs, lambda _: False).fluent

    def try_pushes(
        self, pushes: Sequence[tuple[Float[Tensor, " d_in"], float]], shows: Callable[[str], bool]
    ) -> list[Trial]:
        """Push along directions, each of a length in typical norms."""
        found = list[Trial]()
        for at in range(0, len(pushes), AT_ONCE):
            edits = [
                pushes_along(normalize(direction, dim=0))(length * self.typical_norm)
                for direction, length in pushes[at : at + AT_ONCE]
            ]
            found += [self._trial(r.replies, r.logprobs, shows) for r in self.stage.run(edits, kl=False)]
        return found

    def _trial(self, replies: list[list[int]], logprobs: list[list[float]], shows: Callable[[str], bool]) -> Trial:
        texts = tuple(self.decode(ids) for ids in replies)
        fluent = [judge(text, p).fluency for text, p in zip(texts, logprobs, strict=True)]
        return Trial(sum(map(shows, texts)) / len(texts), sum(fluent) / len(texts), texts)


def select(
    try_directions: Callable[[list[Tensor]], list[Trial]],
    W_dec: Float[Tensor, "d_sae d_in"],
    candidates: Sequence[int],
    enough: float,
) -> Parts:
    """Return at most `MOST` of the candidates with weights; `enough` is the share of fluent replies that is wanted."""

    def score(trial: Trial) -> float:
        return trial.shown - BREAKS * max(0.0, enough - trial.fluent)

    alone = try_directions([W_dec[i] for i in candidates])
    scored = sorted(zip(map(score, alone), candidates, strict=True), key=lambda pair: -pair[0])
    best, parts = scored[0][0], ((scored[0][1], 1.0),)
    pool = [i for _, i in scored[1 : BEST + 1]]
    while len(parts) < MOST:
        tried = [(*parts, (i, w)) for i in pool if i not in dict(parts) for w in WEIGHTS]
        scores = [score(t) for t in try_directions([direction_of(p, W_dec) for p in tried])] or [-1.0]
        top = max(range(len(scores)), key=scores.__getitem__)
        if scores[top] < best + LEAST:
            break
        best, parts = scores[top], tried[top]
    return parts


def direction_of(parts: Parts, W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, " d_in"]:
    """Return the weighted sum of rows."""
    return torch.stack([weight * W_dec[row] for row, weight in parts]).sum(0)
