"""Diff of two revisions of an SAE: features added, retired, moved, relabelled or measured again."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature

MOVED = 0.98
"""A feature has moved if the cosine between its two directions is below this."""
NEW = 1e-4
"""Relative difference of two doses above which the dose was measured again."""


@dataclass(frozen=True)
class FeatureChange:
    """A feature of both revisions."""

    before: Feature
    after: Feature
    cosine: float
    """Cosine similarity between its two directions."""

    @property
    def moved(self) -> bool:
        """Whether its direction has changed."""
        return self.cosine < MOVED

    @property
    def stale(self) -> bool:
        """Whether its label has become stale."""
        return self.after.stale and not self.before.stale

    @property
    def relabelled(self) -> bool:
        """Whether its label has changed."""
        return self.after.label != self.before.label

    @property
    def remeasured(self) -> bool:
        """Whether its dose has changed."""
        old, new = self.before.dose, self.after.dose
        return (old is None) != (new is None) or (
            old is not None and new is not None and abs(new - old) > NEW * abs(old)
        )


@dataclass(frozen=True)
class RevisionDiff:
    """Differences from one revision to another."""

    kept: int
    """Number of features in both."""
    added: Sequence[Feature]
    retired: Sequence[Feature]
    """As they were."""
    changed: Sequence[FeatureChange]
    """Features of both that have changed, lowest cosine first."""


def diff_revisions(before: Bundle, after: Bundle) -> RevisionDiff:
    """Compare two revisions of the same bundle, by the features' numbers."""
    both = [f for f in after.features if f.index in before.numbered]
    pairs = [
        FeatureChange(before.numbered[f.index], f, c)
        for f, c in zip(both, _cosines(before, after, both).tolist(), strict=True)
    ]
    changed = [c for c in pairs if c.moved or c.stale or c.relabelled or c.remeasured]
    return RevisionDiff(
        kept=len(both),
        added=[f for f in after.features if f.index not in before.numbered],
        retired=[f for f in before.features if f.index not in after.numbered],
        changed=sorted(changed, key=lambda c: c.cosine),
    )


@torch.no_grad()
def _cosines(before: Bundle, after: Bundle, both: Sequence[Feature]) -> Float[Tensor, " both"]:
    old = before.sae.W_dec[[before.numbered[f.index].row for f in both]].cpu()
    new = after.sae.W_dec[[f.row for f in both]].cpu()
    return torch.nn.functional.cosine_similarity(old.float(), new.float(), dim=1)
