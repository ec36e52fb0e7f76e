"""Logits → the next token. Knows one row of logits and what was generated before; draws from one generator."""

import torch
from jaxtyping import Float
from torch import Tensor

from server.engines.engine import Sampling

Logits = Float[Tensor, " vocab"]


def next_token(logits: Logits, seen: Tensor, generated: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw a token id. `seen` are all ids so far, `generated` those that the model spoke; greedy at temperature 0."""
    logits = penalised(logits, seen, generated, sampling)
    if sampling.temperature == 0:
        return int(logits.argmax())
    shifted = logits - logits.max()  # so that a tiny temperature overflows to −inf, never to NaN
    probabilities = torch.softmax(truncated(shifted / sampling.temperature, sampling), dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def penalised(logits: Logits, seen: Tensor, generated: Tensor, sampling: Sampling) -> Logits:
    """Return the logits with bias and the three penalties, as vLLM defines them."""
    logits = logits.clone()
    for token, bias in sampling.logit_bias:
        logits[token] += bias
    if sampling.repetition_penalty != 1 and len(seen):
        old = logits[seen]
        logits[seen] = torch.where(old > 0, old / sampling.repetition_penalty, old * sampling.repetition_penalty)
    if (sampling.presence_penalty or sampling.frequency_penalty) and len(generated):
        ids, counts = generated.unique(return_counts=True)
        logits[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts.to(logits.dtype)
    return logits


def truncated(logits: Logits, sampling: Sampling) -> Logits:
    """Return the logits with all but the likely tokens at −inf: top-k, then top-p, then min-p."""
    if 0 < sampling.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1:
        values, order = logits.sort(descending=True)
        probabilities = torch.softmax(values, dim=-1)
        beyond = probabilities.cumsum(-1) - probabilities >= sampling.top_p  # the first one always stays
        beyond[0] = False
        logits = logits.index_fill(0, order[beyond], -torch.inf)
    if sampling.min_p > 0:
        probabilities = torch.softmax(logits, dim=-1)
        logits = logits.masked_fill(probabilities < sampling.min_p * probabilities.max(), -torch.inf)
    return logits
