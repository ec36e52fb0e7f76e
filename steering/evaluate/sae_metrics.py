"""SAE metrics on activations: explained variance, L0, dead features, reconstruction bias and density.

Numerators and denominators are averaged separately.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steering.sae import SAE

DECADES = (-5, -4, -3, -2, -1)


@dataclass(frozen=True)
class SaeMetrics:
    """Metrics of an SAE on `tokens` rows; `dead` is the share of features that never fired on them."""

    explained_variance: float
    """1 − E‖x − x̂‖² / (E‖x‖² − ‖E x‖²)"""
    l0: float
    dead: float
    bias: float
    """E‖x̂‖² / E[x·x̂]: below 1, the reconstruction shrinks."""
    tokens: int
    densities: tuple[int, ...]
    """Number of features that fire on less than 10⁻⁵ of the tokens, on 10⁻⁵…10⁻⁴, …, on 10⁻¹ and more."""
    cosine: float
    """Mean over features of the cosine to the nearest other direction: near 1, features are duplicated."""


@torch.no_grad()
def measure_sae(sae: SAE, rows: Iterable[Float[Tensor, "rows d_in"]]) -> SaeMetrics:
    """Return the metrics over a stream of activations; sums are float64."""
    n, error, square, hat, cross, active = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    total = torch.zeros(sae.d_in, dtype=torch.float64)
    fired = torch.zeros(sae.d_sae, dtype=torch.float64)
    for x in rows:
        a = sae.encode(x)
        x_hat = sae.decode(a, x)
        n += len(x)
        error += float((x - x_hat).double().pow(2).sum())
        square += float(x.double().pow(2).sum())
        hat += float(x_hat.double().pow(2).sum())
        cross += float((x * x_hat).double().sum())
        active += float((a > 0).sum())
        total += x.double().sum(0)
        fired += (a > 0).sum(0)
    variance = square / n - float((total / n).pow(2).sum())
    return SaeMetrics(
        explained_variance=1 - error / n / variance,
        l0=active / n,
        dead=float((fired == 0).double().mean()),
        bias=hat / cross,
        tokens=n,
        densities=_densities(fired / n),
        cosine=_nearest(sae.W_dec),
    )


def _densities(share: Float[Tensor, " d_sae"]) -> tuple[int, ...]:
    edges = torch.tensor([10.0**e for e in DECADES], dtype=share.dtype)
    return tuple(torch.bincount(torch.bucketize(share, edges, right=True), minlength=len(DECADES) + 1).tolist())


def _nearest(directions: Float[Tensor, "d_sae d_in"]) -> float:
    """Mean over features of the largest cosine to another one. In blocks: all cosines at once would be `d_sae²`
    numbers.
    """
    best, start = [], 0
    for rows in directions.split(1024):
        cosines = rows @ directions.T
        cosines[torch.arange(len(rows)), torch.arange(start, start + len(rows))] = -1
        best.append(cosines.amax(1))
        start += len(rows)
    return float(torch.cat(best).mean())
