"""Drift detection: SAE metrics and firing rates on a sample of text, compared with an earlier sample of the same kind."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from steering.errors import SteeringError
from steering.evaluate.sae_metrics import measure_sae
from steering.model.activations import activations, padded_batches
from steering.sae import SAE

LEAST = 2000
"""Least number of tokens of a sample."""
WORSE = 0.05
"""Relative rise of the unexplained variance from which on it is an alarm."""
DENSER = 0.25
SHIFTED = 0.2
"""Population stability index of one feature's firing above which it has shifted; a usual limit in credit scoring."""
MANY = 0.10


@dataclass(frozen=True, eq=False)
class DriftCheck:
    """Metrics of one sample."""

    explained_variance: float
    l0: float
    tokens: int
    firing: Float[Tensor, " d_sae"]
    """Share of tokens at which each feature fires."""

    def figures(self) -> dict[str, Any]:
        """Return the metrics without the firing rates."""
        return {k: v for k, v in asdict(self).items() if k != "firing"}


@torch.no_grad()
def measure_drift(
    model: PreTrainedModel, sae: SAE, hook: str, texts: Sequence[list[int]], *, skip: Collection[int] = ()
) -> DriftCheck:
    """Measure a sample of texts. Raises SteeringError if it is too small."""
    batches = padded_batches(texts, batch=8, longest=512, pad=0)
    parts = list(activations(model, batches, hook, skip=skip))
    rows = torch.cat(parts) if parts else torch.empty(0, sae.d_in)
    if len(rows) < LEAST:
        raise SteeringError(f"{len(rows)} tokens are too few for a sample; {LEAST} are needed")
    measures = measure_sae(sae, rows.split(4096))
    firing = sum(((sae.encode(part) > 0).float().sum(0) for part in rows.split(4096)), torch.zeros(sae.d_sae))
    return DriftCheck(measures.explained_variance, measures.l0, len(rows), firing / len(rows))


def shifted_share(then: DriftCheck, now: DriftCheck) -> float:
    """Return the share of features whose firing has shifted, of those that fire often enough in either sample."""
    a, b = (part.firing[: min(len(then.firing), len(now.firing))] for part in (then, now))
    often = torch.maximum(a, b) * min(then.tokens, now.tokens) >= 20
    if not often.any():
        return 0.0
    a, b = (f[often].double().clamp(1e-5, 1 - 1e-5) for f in (a, b))
    psi = (b - a) * (b / a).log() + (a - b) * ((1 - b) / (1 - a)).log()
    return float((psi > SHIFTED).double().mean())


def alarms(then: DriftCheck, now: DriftCheck) -> list[str]:
    """Return a description of each metric that has changed too much; empty if none has."""
    found = []
    rise = (1 - now.explained_variance) / max(1e-9, 1 - then.explained_variance) - 1
    if rise > WORSE:
        found.append(f"explained variance {then.explained_variance:.3f} → {now.explained_variance:.3f}")
    if abs(now.l0 / then.l0 - 1) > DENSER:
        found.append(f"L0 {then.l0:.1f} → {now.l0:.1f}")
    if (share := shifted_share(then, now)) > MANY:
        found.append(f"{share:.0%} of the features fire at another rate")
    return found
