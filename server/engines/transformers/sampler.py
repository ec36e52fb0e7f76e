"""Sampler: logits to next tokens, many rows at once.

A row's draw depends only on its own logits, parameters and generator: each generator gives one
number between 0 and 1 per token, and the token is where the cumulative probabilities pass it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from server.engines.base import Sampling

Logits = Float[Tensor, " vocab"]


@dataclass(eq=False)
class Sampler:
    """One reply's sampling parameters, its generator and the tokens seen."""

    sampling: Sampling
    generator: torch.Generator
    blocked: Sequence[int] = ()
    """Tokens that may not come next."""
    seen: Tensor | None = None
    """`[vocab]` bool: tokens of prompt and reply; only kept if a penalty needs it."""
    counts: Tensor | None = None
    """`[vocab]`: how often the reply contains each token."""
    bias: tuple[Tensor, Tensor] | None = field(init=False, default=None)

    @staticmethod
    def begin(sampling: Sampling, prompt: Sequence[int], vocab: int, device: torch.device) -> "Sampler":
        """Start a reply. Equal seeds give equal numbers on every device."""
        generator = torch.Generator()
        generator.seed() if sampling.seed is None else generator.manual_seed(sampling.seed)
        draw = Sampler(sampling, generator)
        if draw.penalised:
            draw.seen = torch.zeros(vocab, dtype=torch.bool, device=device)
            draw.seen[torch.tensor(list(prompt), dtype=torch.long, device=device)] = True
            draw.counts = torch.zeros(vocab, device=device)
        if sampling.logit_bias:
            ids, values = zip(*sampling.logit_bias, strict=True)
            draw.bias = torch.tensor(ids, device=device), torch.tensor(values, device=device, dtype=torch.float)
        return draw

    @property
    def penalised(self) -> bool:
        """Whether any penalty is set."""
        s = self.sampling
        return s.repetition_penalty != 1 or s.presence_penalty != 0 or s.frequency_penalty != 0

    @property
    def truncated(self) -> bool:
        """Whether top-k, top-p or min-p is set."""
        return self.sampling.top_k > 0 or self.sampling.top_p < 1 or self.sampling.min_p > 0

    def count_token(self, token: int) -> None:
        """Count a token of the reply."""
        if self.seen is not None and self.counts is not None:
            self.seen[token] = True
            self.counts[token] += 1

    def adjusted(self, logits: Logits) -> Logits:
        """Return one row of logits with bias, penalties as vLLM defines them, and blocked tokens; `logits` stay as they are."""
        logits, s = logits.clone(), self.sampling
        if self.bias is not None:
            logits[self.bias[0]] += self.bias[1]
        if self.seen is not None and self.counts is not None:
            lowered = torch.where(logits > 0, logits / s.repetition_penalty, logits * s.repetition_penalty)
            logits = torch.where(self.seen, lowered, logits)
            logits = logits - s.presence_penalty * (self.counts > 0) - s.frequency_penalty * self.counts
        if self.blocked:
            logits[list(self.blocked)] = -torch.inf
        return logits


def next_tokens(logits: Float[Tensor, "rows vocab"], draws: Sequence[Sampler]) -> list[int]:
    """Sample one token per row; greedy where the temperature is 0. The logits are those that each draw has adjusted."""
    cold = [d.sampling.temperature == 0 for d in draws]
    if all(cold):
        return logits.argmax(-1).tolist()
    heat = torch.tensor([d.sampling.temperature or 1.0 for d in draws], device=logits.device)
    # Shifted first, so that a tiny temperature overflows to −inf and never to NaN.
    scores = (logits - logits.amax(-1, keepdim=True)) / heat[:, None]
    for i, draw in enumerate(draws):
        if draw.truncated and not cold[i]:
            scores[i] = truncated(scores[i], draw.sampling)
    cumulated = torch.softmax(scores, -1).cumsum(-1)
    at = torch.tensor([0.0 if c else _uniform(d) for c, d in zip(cold, draws, strict=True)], device=logits.device)
    total = cumulated[:, -1:]
    drawn = torch.searchsorted(cumulated, at[:, None] * total, right=True)
    drawn = torch.minimum(drawn, (cumulated < total).sum(-1, keepdim=True))[:, 0]  # rounding may pass the last token
    return torch.where(torch.tensor(cold, device=logits.device), logits.argmax(-1), drawn).tolist()


def truncated(logits: Logits, sampling: Sampling) -> Logits:
    """Logits with all but the likely tokens at −inf: top-k, then top-p, then min-p."""
    if 0 < sampling.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1:
        values, order = logits.sort(descending=True)
        probabilities = torch.softmax(values, dim=-1)
        beyond = probabilities.cumsum(-1) - probabilities >= sampling.top_p  # the most likely token always stays
        beyond[0] = False
        logits = logits.index_fill(0, order[beyond], -torch.inf)
    if sampling.min_p > 0:
        probabilities = torch.softmax(logits, dim=-1)
        logits = logits.masked_fill(probabilities < sampling.min_p * probabilities.max(), -torch.inf)
    return logits


def _uniform(draw: Sampler) -> float:
    return float(torch.rand((), generator=draw.generator))
