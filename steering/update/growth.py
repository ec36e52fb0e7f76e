"""Growth of a published SAE: anchored training, recycled and appended rows.

A second training from scratch would share a third to a half of the features with the first, and every preset would
break. So rows that matter are anchored: those of presets are fixed, labelled and frequent ones are held by a quadratic
penalty, rare ones are free, and new features get rows of their own.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steering.sae import SAE
from steering.train.objectives import BatchTopK, LossTerms, Schedule
from steering.train.weights import Rows, Weights

CROWDED = 0.7
"""Cosine above which two new rows count as the same."""
RARE = 0.02
"""Initial firing rate of a new row on the tokens that the published SAE reconstructs badly."""


@dataclass(frozen=True, eq=False)
class Anchored(BatchTopK):
    """BatchTopK plus `anchor · Σ pull_i ‖d_i − d_i published‖²` for the anchored rows."""

    published: Float[Tensor, "published d_in"] | None = None
    pull: Float[Tensor, " published"] | None = None
    anchor: float = 0.05

    def loss_terms(self, weights: Weights, x: Rows, now: Schedule) -> LossTerms:
        """Return the terms of BatchTopK, plus the anchor's penalty."""
        found = super().loss_terms(weights, x, now)
        if self.published is None or self.pull is None:
            return found
        moved = (weights.W_dec[: len(self.pull)] - self.published).pow(2).sum(1)
        return found._replace(loss=found.loss + self.anchor * (self.pull * moved).sum())


def anchor_strengths(
    fired: Float[Tensor, " d_sae"], labelled: Bool[Tensor, " d_sae"], *, frequent: float
) -> Float[Tensor, " d_sae"]:
    """Return 1 for labelled rows and for the most frequent ones, up to a share `frequent` of all firing; 0 for the
    rest.
    """
    order = fired.argsort(descending=True)
    often = torch.zeros_like(labelled)
    often[order] = fired[order].cumsum(0) <= frequent * fired.sum()
    return (often | labelled).float()


@torch.no_grad()
def grow_sae(
    sae: SAE,
    scale: float,
    x: Rows,
    *,
    recycled: Int[Tensor, " recycled"],
    append: int,
    held: Bool[Tensor, " d_sae"],
    generator: torch.Generator,
) -> Weights:
    """Return the published SAE with `append` more rows and `recycled` ones reinitialised along its errors on `x`.

    Rows of `x`, of the raw stream, are drawn with the square of their squared error (Bricken et al. 2023), without two
    of similar direction.
    """
    weights = Weights.from_sae(sae, scale)
    x = x * scale
    left = x - weights.decode(_encode_in_blocks(sae, x / scale) * scale)
    wanted = append + len(recycled)
    draws = torch.multinomial(left.pow(2).sum(1).pow(2), min(len(x), 20 * wanted), generator=generator)
    new = _dissimilar(torch.nn.functional.normalize(left[draws], dim=1), wanted)
    along = (x - weights.b_dec) @ new.T
    bias = -torch.quantile(along[torch.randperm(len(x), generator=generator)[:8192]], 1 - RARE, dim=0)
    encoder = torch.cat([weights.encoder.data, new[len(recycled) :]])
    decoder = torch.cat([weights.W_dec.data, new[len(recycled) :]])
    b_enc = torch.cat([weights.b_enc.data, bias[len(recycled) :]])
    encoder[recycled], decoder[recycled], b_enc[recycled] = (
        new[: len(recycled)],
        new[: len(recycled)],
        bias[: len(recycled)],
    )
    held = torch.cat([held, torch.zeros(append, dtype=torch.bool)])
    return Weights(encoder.T, b_enc, decoder, weights.b_dec.data, subtracts=True, unit=True, held=held)


def _encode_in_blocks(sae: SAE, x: Rows) -> Tensor:
    return torch.cat([sae.encode(part) for part in x.split(4096)])


def _dissimilar(directions: Rows, n: int) -> Rows:
    """Return `n` directions, in order, each dissimilar to those before; if there are too few, filled up with the first
    others.
    """
    chosen: list[int] = []
    spare: list[int] = []
    for i in range(len(directions)):
        near = directions[chosen] @ directions[i] if chosen else torch.zeros(1)
        (spare if float(near.max()) > CROWDED else chosen).append(i)
        if len(chosen) == n:
            break
    return directions[(chosen + spare)[:n]]
