"""How good an SAE is. Knows an SAE and rows of activations; averages numerator and denominator apart."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steering.sae import SAE


@dataclass(frozen=True)
class Measures:
    """Quality of an SAE on `tokens` rows; `dead` is the share that never fired on them."""

    explained_variance: float
    """1 − E‖x − x̂‖² / (E‖x‖² − ‖E x‖²)"""
    l0: float
    dead: float
    bias: float
    """E‖x̂‖² / E[x·x̂]: below 1 the reconstruction shrinks."""
    tokens: int


@torch.no_grad()
def measure(sae: SAE, rows: Iterable[Float[Tensor, "rows d_in"]]) -> Measures:
    """Stream over activations and measure, sums in float64."""
    n, error, square, hat, cross, active = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    total = torch.zeros(sae.d_in, dtype=torch.float64)
    fired = torch.zeros(sae.d_sae, dtype=torch.bool)
    for x in rows:
        a = sae.encode(x)
        x_hat = sae.decode(a)
        n += len(x)
        error += float((x - x_hat).double().pow(2).sum())
        square += float(x.double().pow(2).sum())
        hat += float(x_hat.double().pow(2).sum())
        cross += float((x * x_hat).double().sum())
        active += float((a > 0).sum())
        total += x.double().sum(0)
        fired |= (a > 0).any(0)
    variance = square / n - float((total / n).pow(2).sum())
    return Measures(1 - error / n / variance, active / n, float((~fired).double().mean()), hat / cross, n)
