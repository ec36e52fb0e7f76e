"""Composition of a spec: the load of all its pushes together, and pairs of features that overlap.

A feature's dose is its push in units of the largest one at which replies stay coherent, so the whole spec's `load` is
the length of the summed push in those units: √(Σᵢⱼ dᵢ dⱼ cos(i, j)). This is the square law of small pushes (KL grows
with the square), with the cosines of the directions as an estimate of how their effects add up. 1.0 is the largest load
of one feature alone.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Applied, Resolved
from steering.edits import ResolvedIntervention, as_vector
from steering.sae import SAE

Verdict = Literal["ok", "strained", "broken"]
ALIKE = 0.35
"""Least cosine at which two features count as pushing the same way; four standard deviations of chance in narrow
streams.
"""
SHARED = 1 / 3
"""Least share of common words at which two features count as having the same effect."""


@dataclass(frozen=True)
class Overlap:
    """Two features that push the same way or against each other, or that raise the same words."""

    one: str
    other: str
    cosine: float
    shared: float
    says: str


@dataclass(frozen=True)
class Composition:
    """Estimate of a spec's effect before anything is generated."""

    load: float
    verdict: Verdict
    overlaps: tuple[Overlap, ...]


def compose(resolved: Resolved, bundle: Bundle) -> Composition:
    """Return load, verdict and overlaps of a spec at the bundle's hook point. Only pushes count: modes `add` and
    `clamp`.
    """
    pushing = _pushing(resolved, bundle)
    if not pushing:
        return Composition(0.0, "ok", ())
    doses, cosines = torch.tensor([a.dose for a, _ in pushing]), _cosines([d for _, d in pushing])
    load = round(float((doses @ cosines @ doses).clamp(min=0).sqrt()), 3)
    strained, broken = bundle.info.strained_load, bundle.info.broken_load
    verdict: Verdict = "broken" if load > broken else "strained" if load > strained else "ok"
    return Composition(load, verdict, tuple(_overlaps([a for a, _ in pushing], cosines.tolist(), bundle.sae.d_in)))


def cosines(resolved: Resolved, bundle: Bundle) -> list[list[float]]:
    """Return the cosines between the directions of all applied features, in their order.

    Entries of a feature that does not push are 0, on the diagonal too. With them, the load of the same features can be
    computed for any doses.
    """
    pushing = _pushing(resolved, bundle)
    places = {a.feature.id: i for i, (a, _) in enumerate(pushing)}
    held = _cosines([d for _, d in pushing]).tolist() if pushing else []
    at = [places.get(a.feature.id) for a in resolved.applied]
    return [[0.0 if i is None or j is None else round(held[i][j], 4) for j in at] for i in at]


def _pushing(resolved: Resolved, bundle: Bundle) -> list[tuple[Applied, torch.Tensor]]:
    """Return the features that push at the bundle's hook point, with their directions."""
    here = resolved.interventions.get(bundle.info.hook, ())
    there = [a for a in resolved.applied if a.layer == bundle.layer]
    pairs = zip(there, here, strict=True)
    return [(a, _direction(i, bundle.sae)) for a, i in pairs if a.mode in ("add", "clamp") and a.dose]


def _cosines(directions: Sequence[torch.Tensor]) -> torch.Tensor:
    rows = torch.stack([*directions])
    return rows @ rows.T


def _overlaps(applied: Sequence[Applied], cosines: list[list[float]], width: int) -> list[Overlap]:
    least, found = max(ALIKE, 4 / width**0.5), []
    for (i, a), (j, b) in itertools.combinations(enumerate(applied), 2):
        cosine, shared = cosines[i][j], _shared(a, b)
        if abs(cosine) < least and shared < SHARED:
            continue
        one, other = (x.feature.label or x.feature.id for x in (a, b))
        together = cosine * a.dose * b.dose > 0 or abs(cosine) < least
        how = "do much the same" if together else "work against each other"
        says = f"{one} and {other} {how} (cosine {cosine:+.2f}, {shared:.0%} of their words)"
        found.append(Overlap(a.feature.id, b.feature.id, round(cosine, 3), round(shared, 3), says))
    return sorted(found, key=lambda o: -max(abs(o.cosine), o.shared))[:8]


def _shared(a: Applied, b: Applied) -> float:
    one, other = ({*x.feature.calibration.words} if x.feature.calibration else set() for x in (a, b))
    return len(one & other) / len(one | other) if one and other else 0.0


def _direction(item: ResolvedIntervention, sae: SAE) -> torch.Tensor:
    if item.pinned:
        return as_vector(item.pinned.direction, sae.d_in)
    return sae.W_dec[item.index].float().cpu()
