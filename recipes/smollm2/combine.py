"""Combination of few features whose push points where the difference of means of two sets of texts points.

Orthogonal matching pursuit (Pati et al. 1993) with weights of at least zero: at each step the feature that brings the
combination nearest to the direction, by cosine, is added, and all weights are fitted anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

CANDIDATES = 60
"""Features among which one is chosen: those whose activation differs most between the texts."""


@dataclass(frozen=True)
class Combination:
    """Rows of the decoder with their weights, and the cosine with the direction that was wanted."""

    rows: tuple[int, ...]
    weights: tuple[float, ...]
    cosine: float


def combine(
    direction: Float[Tensor, " d_in"],
    W_dec: Float[Tensor, "d_sae d_in"],
    contrast: Float[Tensor, " d_sae"],
    allowed: Bool[Tensor, " d_sae"],
    *,
    most: int = 4,
) -> Combination:
    """Return at most `most` features; `contrast` is by how much more each is active on the texts than on others.

    Raises ValueError if no allowed feature points along the direction.
    """
    wanted = normalize(direction, dim=0)
    ranked = torch.where(allowed & (contrast > 0), contrast, -torch.inf)
    candidates = [i for i in ranked.topk(min(CANDIDATES, len(ranked))).indices.tolist() if ranked[i] > 0]
    chosen, best = list[int](), Combination((), (), 0.0)
    while len(chosen) < most:
        tried = [_fitted([*chosen, i], wanted, W_dec) for i in candidates if i not in chosen]
        found = max((t for t in tried if t), key=lambda t: t.cosine, default=None)
        if found is None or found.cosine <= best.cosine:
            break
        chosen, best = [*found.rows], found
    if not chosen:
        raise ValueError("no allowed feature points along the direction")
    return best


def _fitted(rows: Sequence[int], wanted: Tensor, W_dec: Tensor) -> Combination | None:
    """Least squares weights; None if one of them is not positive."""
    atoms = W_dec[[*rows]]
    weights = torch.linalg.lstsq(atoms.T, wanted[:, None]).solution[:, 0]
    if bool((weights <= 0).any()):
        return None
    push = weights @ atoms
    return Combination(tuple(rows), tuple(weights.tolist()), float(push @ wanted / push.norm()))
