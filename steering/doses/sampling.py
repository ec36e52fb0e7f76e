"""Sampling of rollouts: the next token of many rows at once, with random numbers that all edits of a prompt share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

CANDIDATES = 64
"""Tokens among which `top_p` chooses."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: at temperature 0 greedily. All edits share the random numbers, prompt by prompt."""

    temperature: float = 0.0
    seed: int = 0
    """Seed of the first prompt; the following ones count up."""
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    """Of the reply's own tokens."""


GREEDY = Sampling()
NATURAL = Sampling(0.5, top_p=0.9, repetition_penalty=1.1)
"""As people chat: the sampling of the replies by which `evaluate.coherence` was fitted."""


def penalized(logits: Float[Tensor, "rows vocab"], said: list[Int[Tensor, "rows 1"]], penalty: float) -> Tensor:
    """Divide positive logits of tokens that were said by the penalty and multiply negative ones (Keskar et al. 2019)."""
    if penalty == 1.0 or not said:
        return logits
    used = torch.cat(said, 1)
    found = logits.gather(1, used)
    return logits.scatter(1, used, torch.where(found > 0, found / penalty, found * penalty))


def sample_next(
    logits: Float[Tensor, "rows vocab"], draw: Sampling, chances: Sequence[torch.Generator], n: int
) -> Int[Tensor, "rows 1"]:
    """Argmax, or a sample by the Gumbel-max trick; the noise is the same for all edits of a prompt.

    With `top_p` the noise belongs to ranks among the `CANDIDATES` likeliest tokens.
    """
    if not draw.temperature:
        return logits.argmax(-1, keepdim=True)
    if draw.top_p >= 1:
        logs = logits / draw.temperature
        return (logs + _gumbel(chances, logs.shape[1], n).to(logs)).argmax(-1, keepdim=True)
    best, tokens = logits.topk(min(CANDIDATES, logits.shape[1]))
    total = (logits / draw.temperature).logsumexp(-1, keepdim=True)
    logs = best / draw.temperature - total
    share = logs.exp()
    logs = torch.where(share.cumsum(-1) - share < draw.top_p, logs, -torch.inf)
    return tokens.gather(1, (logs + _gumbel(chances, logs.shape[1], n).to(logs)).argmax(-1, keepdim=True))


def _gumbel(chances: Sequence[torch.Generator], width: int, n: int) -> Float[Tensor, "rows width"]:
    uniform = torch.stack([torch.rand(width, generator=g, dtype=torch.float64) for g in chances])
    return (-(-uniform.clamp(1e-12, 1 - 1e-12).log()).log()).repeat(n, 1)
