"""Resolve a steering spec against open bundles: raw strengths, doses and edits by hook point."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from steering.calibration import Calibration, SweetSpot, dose_at, raw_at
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import BundleInfo, Feature, dose_of, knots_of, number_of
from steering.edits import ResidualEdit, ResolvedIntervention, compile_edit
from steering.errors import BadStrength, UnknownFeature
from steering.spec import VECTOR, FeatureSnapshot, Intervention, Mode, SteeringSpec, Unit


@dataclass(frozen=True)
class Applied:
    """One intervention as applied, with its strength in all three units."""

    feature: Feature
    mode: Mode
    strength: float
    dose: float
    max: float
    raw: float
    layer: int
    measured: bool
    gone: bool = False
    """Whether the SAE no longer has the feature, and its snapshot steers."""

    @property
    def vector(self) -> bool:
        """Whether it is a named vector rather than a feature of an SAE."""
        return self.feature.id.startswith(VECTOR)

    @property
    def in_sweet_spot(self) -> bool | None:
        """Whether the dose is in the sweet spot; None if none was measured."""
        spot = self.spot
        return None if spot is None else spot.holds(self.dose)

    @property
    def spot(self) -> SweetSpot | None:
        """Sweet spot on the dose's side of 0."""
        calibration = self.feature.calibration
        return (calibration.negative if calibration else None) if self.dose < 0 else self.feature.sweet_spot


@dataclass(frozen=True)
class Resolved:
    """A spec resolved against a catalogue: the applied interventions, and one edit for each hook point."""

    spec: SteeringSpec
    applied: tuple[Applied, ...]
    edits: dict[str, ResidualEdit]
    interventions: dict[str, tuple[ResolvedIntervention, ...]]
    """Interventions from which the edits were compiled, by hook point."""
    push_norm: dict[str, float]
    """Length of the summed push at each hook point, in typical norms of the stream there."""
    pinned: str = ""
    """What snapshots changed, as JSON; empty if nothing."""

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the effect: the spec's, or another one where a preset's snapshots change the effect."""
        plain = self.spec.fingerprint
        return "s_" + hashlib.sha256((plain + self.pinned).encode()).hexdigest()[:16] if self.pinned else plain


class Catalogue:
    """All features that can be steered: one or more open bundles of the same model."""

    def __init__(self, bundles: list[Bundle]) -> None:
        self.bundles = {b.info.name: b for b in bundles}

    def __iter__(self) -> Iterator[Feature]:
        for bundle in self.bundles.values():
            yield from bundle.features

    def find(self, feature_id: str) -> tuple[Bundle, Feature]:
        """Return a feature and its bundle. Raises UnknownFeature with the ids that exist."""
        name, number = feature_id.rpartition("/")[0], number_of(feature_id)
        bundle = self.bundles.get(name)
        if bundle and (feature := bundle.numbered.get(number)):
            return bundle, feature
        if bundle and (gone := bundle.retired.get(number)):
            label = f" ({gone.label})" if gone.label else ""
            raise UnknownFeature(
                f"the feature {feature_id!r}{label} was retired in revision {gone.revision!r}; presets that were saved "
                "with it still steer by it, GET /v1/features finds what there is now",
                feature=feature_id,
            )
        have = ", ".join(f"{b.info.name}/0…{max(b.numbered)}" for b in self.bundles.values())
        raise UnknownFeature(f"no feature {feature_id!r}; there are {have}", feature=feature_id)

    def resolve(self, spec: SteeringSpec, pins: Mapping[str, FeatureSnapshot] | None = None) -> Resolved:
        """Convert a spec's strengths to raw activations, and its interventions to edits.

        A feature with a snapshot among the `pins` has its strength in the snapshot's units, and is steered by the
        snapshot where this revision does not have it. A named vector has nothing but its snapshot. Raises
        UnknownFeature and BadStrength.
        """
        spec = spec.canonical()
        chosen: dict[str, list[ResolvedIntervention]] = {}
        applied, changed = [], []
        for item in spec.features:
            pin = (pins or {}).get(item.id)
            bundle, feature, gone = self._find_or_pinned(item, pin)
            if gone and pin and not pin.encoder and item.mode != "add":
                raise BadStrength(
                    f"{item.id!r} cannot be steered by {item.mode!r}: it has no activation; use the mode 'add', or create it "
                    "with the method 'probe'"
                )
            raw = raw_strength(item, spec.unit, feature, bundle.info, pin=pin)
            chosen.setdefault(bundle.info.name, []).append(
                ResolvedIntervention(feature.row, item.mode, raw, spec.scale, pin if gone else None)
            )
            if gone or raw != raw_strength(item, spec.unit, feature, bundle.info):
                changed.append([item.id, raw, pin.model_dump() if pin and gone else None])
            scaled = raw * (1 if item.mode == "scale" else spec.scale)
            applied.append(replace(_applied(item, scaled, feature, bundle), gone=gone))
        edits = {
            self.bundles[n].info.hook: compile_edit(items, self.bundles[n].sae, preserve=spec.norm == "preserve")
            for n, items in chosen.items()
        }
        asked = {self.bundles[n].info.hook: tuple(items) for n, items in chosen.items()}
        norms = {b.info.hook: b.info.typical_norm for b in self.bundles.values()}
        push_norm = {h: float(e.push.norm()) / norms[h] for h, e in edits.items()}
        return Resolved(spec, tuple(applied), edits, asked, push_norm, json.dumps(changed) if changed else "")

    def _find_or_pinned(self, item: Intervention, pin: FeatureSnapshot | None) -> tuple[Bundle, Feature, bool]:
        """Return bundle and feature of an intervention, and whether only its snapshot is left."""
        try:
            return *self.find(item.id), False
        except UnknownFeature:
            own = next(iter(self.bundles.values())) if item.id.startswith(VECTOR) else None
            bundle = own or self.bundles.get(item.id.rpartition("/")[0])
            if bundle is None or pin is None:
                raise
            dose = pin.dose if pin.measured else None
            number = number_of(pin.id)
            curve = Calibration(knots=pin.knots) if pin.knots else None
            feature = Feature(
                id=pin.id,
                index=number,
                label=pin.label,
                typical_max=pin.typical_max,
                dose=dose,
                calibration=curve,
            )
            return bundle, feature, True


def raw_strength(
    item: Intervention, unit: Unit, feature: Feature, info: BundleInfo, *, pin: FeatureSnapshot | None = None
) -> float:
    """Return a strength as a raw activation, in the units of `pin` if given; the factor of a `scale` has no unit."""
    if item.mode == "scale" or unit == "raw":
        return item.strength
    if unit == "max":
        return item.strength * (pin or feature).typical_max
    return raw_at(item.strength, knots_of(pin or feature, pin.dose if pin else dose_of(feature, info)))


def _applied(item: Intervention, raw: float, feature: Feature, bundle: Bundle) -> Applied:
    plain = item.mode == "scale"  # a factor, the same number in every unit
    return Applied(
        feature=feature,
        mode=item.mode,
        strength=item.strength,
        raw=raw,
        dose=raw if plain else dose_at(raw, knots_of(feature, dose_of(feature, bundle.info))),
        max=raw if plain or not feature.typical_max else raw / feature.typical_max,
        layer=bundle.layer,
        measured=feature.dose is not None,
    )
