"""Contrast of two sets of texts: features that separate them, tested per document.

The unit is the document. By `any`, a feature fires in a document or it does not: shares, log-odds with Jeffreys' prior,
Cohen's h, Fisher's exact test. By `mean`, the mean activation over its tokens: the standardised difference and a
permutation test. Discoveries are selected by Benjamini–Hochberg q-values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from steering.errors import SteeringError
from steering.evaluate.statistics import benjamini_hochberg, fisher_exact, log_odds, permutation_test
from steering.model.passage import NOBODY, Passage
from steering.sae import SAE

By = Literal["any", "mean"]
Read = tuple[Passage, Float[Tensor, "tokens d_in"]]
Q = 0.05
"""False-discovery rate."""
FEW = 6
"""Least number of documents in which a tested feature fires, in both sets together (fewer if the sets are smaller)."""
ROWS = 1024


@dataclass(frozen=True, eq=False)
class FiringCounts:
    """Firing of each feature in each document."""

    strength: NDArray[np.float32]
    """`[documents, d_sae]`: the mean activation over a document's tokens."""
    hits: NDArray[np.bool_]
    """Whether it fired at all."""
    tokens: int

    def __len__(self) -> int:
        return len(self.hits)

    @staticmethod
    def concatenate(parts: "Sequence[FiringCounts]") -> "FiringCounts":
        """Return the documents of all parts."""
        strength, hits = (np.concatenate([getattr(p, k) for p in parts]) for k in ("strength", "hits"))
        return FiringCounts(strength, hits, sum(p.tokens for p in parts))


@dataclass(frozen=True)
class Tested:
    """One feature, tested between A and B."""

    row: int
    a: float
    b: float
    """How often it fires."""
    mean_a: float
    mean_b: float
    """Mean activations."""
    p: float
    q: float

    @property
    def discovery(self) -> bool:
        """Whether it is a discovery at a false-discovery rate of 5 %."""
        return self.q <= Q


@dataclass(frozen=True)
class Separating(Tested):
    """One feature in two sets of documents; `a` and `b` are the shares of documents in which it fires."""

    log_odds: float
    """Of firing in a document of A against one of B."""
    effect: float
    """Cohen's h by `any`, the difference in standard deviations by `mean`; above 0 where A has more."""


@dataclass(frozen=True)
class Contrast:
    """All features that were tested, smallest p first."""

    features: tuple[Separating, ...]
    documents: tuple[int, int]
    tokens: tuple[int, int]
    by: By

    @property
    def discoveries(self) -> int:
        """Number of features that separate the sets, at a false-discovery rate of 5 %."""
        return sum(f.discovery for f in self.features)

    def top(self, sign: int, top: int) -> list[Separating]:
        """Return the features that A has more of (1), or B (−1), smallest p first."""
        return [f for f in self.features if f.effect * sign > 0][:top]


@torch.no_grad()
def count_firings(sae: SAE, documents: Sequence[Read]) -> FiringCounts:
    """Return the firing of each feature in each document, on tokens of a part. Raises SteeringError for an empty set."""
    if not documents:
        raise SteeringError("a set of texts is empty")
    means, hits, tokens = [], [], 0
    for passage, stream in documents:
        mine = torch.tensor([p != NOBODY for p in passage.part], device=stream.device)
        total, some = torch.zeros(sae.d_sae), torch.zeros(sae.d_sae, dtype=torch.bool)
        for x in stream[mine].float().to(sae.W_enc.device).split(ROWS):
            a = sae.encode(x)
            total, some = total + a.sum(0).cpu(), some | (a > 0).any(0).cpu()
        n = int(mine.sum())
        tokens += n
        means.append((total / max(1, n)).numpy())
        hits.append(some.numpy())
    return FiringCounts(np.stack(means), np.stack(hits), tokens)


def contrast(a: FiringCounts, b: FiringCounts, *, by: By = "any", seed: int = 0) -> Contrast:
    """Test two sets of documents, feature by feature."""
    n, m = len(a), len(b)
    hits_a, hits_b = a.hits.sum(0, dtype=np.int64), b.hits.sum(0, dtype=np.int64)
    # A feature in so few documents cannot be significant, whatever the split, and would only cost the others power.
    rows = np.flatnonzero(hits_a + hits_b >= min(FEW, n, m))
    if not len(rows):
        return Contrast((), (n, m), (a.tokens, b.tokens), by)
    hits_a, hits_b = hits_a[rows], hits_b[rows]
    strong_a, strong_b = a.strength[:, rows].astype(np.float64), b.strength[:, rows].astype(np.float64)
    if by == "any":
        p = fisher_exact(hits_a, n, hits_b, m)
        effect = 2 * np.arcsin(np.sqrt(hits_a / n)) - 2 * np.arcsin(np.sqrt(hits_b / m))
    else:
        p = permutation_test(strong_a, strong_b, seed=seed)
        effect = _standardised(strong_a, strong_b)
    odds, q = log_odds(hits_a, n) - log_odds(hits_b, m), benjamini_hochberg(p)
    found = (
        Separating(
            int(row),
            float(hits_a[i] / n),
            float(hits_b[i] / m),
            float(strong_a[:, i].mean()),
            float(strong_b[:, i].mean()),
            float(p[i]),
            float(q[i]),
            log_odds=float(odds[i]),
            effect=float(effect[i]),
        )
        for i, row in enumerate(rows)
    )
    return Contrast(tuple(sorted(found, key=lambda f: (f.p, -abs(f.effect)))), (n, m), (a.tokens, b.tokens), by)


def _standardised(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Difference of the means in pooled standard deviations."""
    freedom = max(1, len(a) + len(b) - 2)
    square = ((a - a.mean(0)) ** 2).sum(0) + ((b - b.mean(0)) ** 2).sum(0)
    return (a.mean(0) - b.mean(0)) / np.sqrt(square / freedom).clip(1e-9)
