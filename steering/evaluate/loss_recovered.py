"""Loss recovered: cross-entropy and KL of a model with its stream replaced by an SAE's reconstruction.

The stream is replaced and scored only where an SAE is meant to read: not at a text's first token, nor at attention
sinks of more than ten times the median norm.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steering.model.activations import SINK
from steering.model.hooks import Stream, Tap, read_stream, tap
from steering.sae import SAE


@dataclass(frozen=True)
class LossRecovered:
    """Means over `tokens` predictions, in nats."""

    clean: float
    """Cross-entropy of the unmodified model."""
    rise: float
    """ΔCE: increase of the cross-entropy with the reconstruction in place."""
    recovered: float
    """1 − ΔCE over the increase with a zero stream; near 1 for nearly every SAE, so prefer ΔCE."""
    kl: float
    """KL of the next-token distribution, from the unmodified model to the one with the reconstruction."""
    tokens: int


@torch.no_grad()
def loss_recovered(
    model: PreTrainedModel, sae: SAE, batches: Iterable[tuple[Tensor, Tensor]], hook: str
) -> LossRecovered:
    """Run `(ids, real)` batches of shape `[batch, time]` three times: unmodified, with the reconstruction, and with
    zeros.
    """
    sums, tokens = torch.zeros(4, dtype=torch.float64), 0
    for ids, real in batches:
        ids, mask = ids.to(model.device), real.to(model.device)
        x = read_stream(model, ids, hook, attention_mask=mask.long())
        where = _readable(x, mask)
        scored = where[:, :-1] & mask[:, 1:]
        if not scored.any():
            continue
        streams = (x, sae.reconstruct(x.float()), torch.zeros_like(x))
        clean, spliced, zeroed = (_scores(model, ids, mask, {hook: _at(where, s)})[scored] for s in streams)
        target = ids[:, 1:][scored][:, None]
        kl = (clean.exp() * (clean - spliced)).sum()
        sums += torch.stack([*(-s.gather(1, target).sum() for s in (clean, spliced, zeroed)), kl]).double().cpu()
        tokens += len(target)
    if not tokens:
        raise ValueError("the text has no token to score: a text needs at least three tokens")
    clean, spliced, zeroed, kl = (sums / tokens).tolist()
    return LossRecovered(clean, spliced - clean, 1 - (spliced - clean) / (zeroed - clean), kl, tokens)


def _at(where: Tensor, replacement: Tensor) -> Tap:
    return lambda x: torch.where(where[..., None], replacement.to(x.dtype), x)


def _scores(model: PreTrainedModel, ids: Tensor, mask: Tensor, taps: dict[str, Tap]) -> Tensor:
    """Log-probabilities of each next token, `[batch, time − 1, vocabulary]`."""
    with tap(model, taps):
        logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
    return logits[:, :-1].float().log_softmax(-1)


def _readable(x: Stream, mask: Tensor) -> Tensor:
    where = mask.clone()
    where[:, 0] = False
    norms = x.float().norm(dim=-1)
    return where & (norms <= SINK * norms[where].median()) if where.any() else where
