"""Features and the bundles that hold them. Knows files and SAEs; nothing of models or HTTP.

A bundle is a folder: `bundle.json` (which model, hook point, revision), `revisions/<revision>/` with
the SAE and `features.jsonl`, and `presets.json`. Strengths become raw activations here, because only
the catalogue knows what was measured for each feature.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from steering.edits import ResidualEdit, ResolvedIntervention, compile_edit
from steering.errors import BadBundle, UnknownFeature
from steering.hooks import layer_number
from steering.sae import SAE
from steering.spec import Intervention, Preset, SteeringSpec, Unit

CANONICAL_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
"""One spelling per feature: `01` would be a second name for `1`, which no check for repeats would see."""


class SweetSpot(BaseModel):
    """The measured interval of doses in which the concept shows and the reply is still good."""

    low: float
    high: float
    method: str = ""
    n: int = 0
    date: str = ""


class Feature(BaseModel):
    """One latent of an SAE, with what was measured of it. Lengths are in units of the stream."""

    model_config = ConfigDict(frozen=True)

    id: str
    index: int
    label: str = ""
    label_source: str = "none"
    density: float = 0.0
    """Share of tokens on which it fires."""
    max_activation: float = 0.0
    """The largest activation seen."""
    typical_max: float = 0.0
    """The 99.5th percentile of the activations at which it fires: the unit `max`."""
    dose: float | None = None
    """Raw strength of dose 1.0, where it was measured."""
    sweet_spot: SweetSpot | None = None
    examples: list[dict[str, Any]] = []
    top_logits: dict[str, list[str]] = {}
    note: str = ""


class BundleInfo(BaseModel):
    """`bundle.json`."""

    model_config = ConfigDict(extra="forbid")

    name: str
    model: str
    """A folder beside `bundle.json`, or a hub id."""
    model_revision: str | None = None
    hook: str
    revision: str
    typical_norm: float
    """Median length of the stream at the hook point: what an unmeasured feature's dose is drawn from."""
    chat_template: str | None = None
    license: str = ""
    metrics: dict[str, float] = {}


@dataclass(frozen=True)
class Applied:
    """One intervention as it was done, in all three units."""

    feature: Feature
    mode: str
    strength: float
    dose: float
    max: float
    raw: float
    layer: int
    measured: bool

    @property
    def in_sweet_spot(self) -> bool | None:
        """Whether the dose lies where the concept shows and the reply holds; None if not measured."""
        spot = self.feature.sweet_spot
        return None if spot is None else spot.low <= self.dose <= spot.high


@dataclass(frozen=True)
class Resolved:
    """A spec against a catalogue: what will be done, and the edits that do it, one for each hook point."""

    spec: SteeringSpec
    applied: tuple[Applied, ...]
    edits: dict[str, ResidualEdit]
    interventions: dict[str, tuple[ResolvedIntervention, ...]]
    """What the edits were compiled from."""
    push_norm: dict[str, float]
    """Length of the summed push at each hook point, in typical norms of the stream there."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """An open bundle."""

    folder: Path
    info: BundleInfo
    sae: SAE
    features: list[Feature]
    presets: list[Preset] = field(default_factory=list)

    @property
    def model_path(self) -> str:
        """Where the model is: a local folder if there is one of that name, else a hub id."""
        local = self.folder / self.info.model
        return str(local) if local.is_dir() else self.info.model

    def to(self, device: torch.device | str) -> "Bundle":
        """Return the same bundle with its SAE on another device."""
        return replace(self, sae=self.sae.to(device))

    def check_fits(self, width: int) -> None:
        """Raise BadBundle if the SAE reads a stream of another width than the model's."""
        if self.sae.d_in != width:
            raise BadBundle(
                f"the SAE of {self.info.name!r} reads a stream of width {self.sae.d_in}; the model's is {width}"
            )

    @property
    def layer(self) -> int:
        """The number of the hooked layer."""
        return layer_number(self.info.hook)

    def neighbours(self, index: int, *, top: int = 8) -> list[tuple[Feature, float]]:
        """Return the features whose directions are nearest, with their cosines."""
        cosines = self.sae.W_dec @ self.sae.W_dec[index]
        cosines[index] = -2
        best = cosines.topk(min(top, self.sae.d_sae - 1))
        return [(self.features[i], float(c)) for c, i in zip(best.values, best.indices.tolist(), strict=True)]

    @staticmethod
    def create(
        folder: Path, info: BundleInfo, sae: SAE, *, features: list[Feature] | None = None, about: dict[str, Any]
    ) -> None:
        """Write a new bundle without presets; it is there whole or not at all."""
        draft = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        sae.save(draft / "revisions" / info.revision, hook=info.hook, model=info.model, about=about)
        (draft / "bundle.json").write_text(info.model_dump_json(indent=1, exclude_defaults=True) + "\n")
        rows = [f.model_dump(exclude={"id"}, exclude_defaults=True) | {"index": f.index} for f in features or []]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (draft / "revisions" / info.revision / "features.jsonl").write_text(lines)
        os.replace(draft, folder)

    @staticmethod
    def open(folder: Path) -> "Bundle":
        """Read a bundle. Raises BadBundle that names the file and what is wrong with it."""
        try:
            info = BundleInfo.model_validate_json((folder / "bundle.json").read_text())
        except (OSError, ValidationError) as error:
            raise BadBundle(f"{str(folder)!r} is not a bundle: {error}") from error
        revision = folder / "revisions" / info.revision
        sae = SAE.load(revision)
        presets_file = folder / "presets.json"
        try:
            presets = (
                [Preset.model_validate(p) for p in json.loads(presets_file.read_text())]
                if presets_file.exists()
                else []
            )
            features = _read_features(revision / "features.jsonl", info.name, sae.d_sae)
        except (OSError, ValueError) as error:
            raise BadBundle(f"the catalogue of {str(folder)!r} is damaged: {error}") from error
        return Bundle(folder, info, sae, features, presets)


class Catalogue:
    """All features that can be steered: one or more open bundles of the same model."""

    def __init__(self, bundles: list[Bundle]) -> None:
        self.bundles = {b.info.name: b for b in bundles}

    def __iter__(self) -> Iterator[Feature]:
        for bundle in self.bundles.values():
            yield from bundle.features

    def find(self, feature_id: str) -> tuple[Bundle, Feature]:
        """Look a feature up. Raises UnknownFeature with what there is instead."""
        name, _, index = feature_id.rpartition("/")
        bundle = self.bundles.get(name)
        if bundle is None or not CANONICAL_INDEX.fullmatch(index) or int(index) >= bundle.sae.d_sae:
            have = ", ".join(f"{b.info.name}/0…{b.sae.d_sae - 1}" for b in self.bundles.values())
            raise UnknownFeature(f"no feature {feature_id!r}; there are {have}")
        return bundle, bundle.features[int(index)]

    def search(self, words: str = "") -> list[Feature]:
        """Features whose label, top logits or id hold all the words; labelled ones first, then the frequent."""
        wanted = words.lower().split()
        found = [f for f in self if all(w in _searchable(f) for w in wanted)]
        return sorted(
            found,
            key=lambda f: (
                f.label_source not in ("hand", "fit"),
                -sum(w in f.label.lower() for w in wanted),
                -f.density,
            ),
        )

    def resolve(self, spec: SteeringSpec) -> Resolved:
        """Turn a spec's strengths into raw activations and its interventions into edits.

        Raises UnknownFeature and BadStrength.
        """
        spec = spec.canonical()
        chosen: dict[str, list[ResolvedIntervention]] = {}
        applied = []
        for item in spec.features:
            bundle, feature = self.find(item.id)
            raw = raw_strength(item, spec.unit, feature, bundle.info)
            chosen.setdefault(bundle.info.name, []).append(
                ResolvedIntervention(feature.index, item.mode, raw, spec.scale)
            )
            applied.append(_applied(item, raw * (1 if item.mode == "scale" else spec.scale), feature, bundle))
        edits = {self.bundles[n].info.hook: compile_edit(items, self.bundles[n].sae) for n, items in chosen.items()}
        asked = {self.bundles[n].info.hook: tuple(items) for n, items in chosen.items()}
        norms = {b.info.hook: b.info.typical_norm for b in self.bundles.values()}
        return Resolved(
            spec, tuple(applied), edits, asked, {h: float(e.push.norm()) / norms[h] for h, e in edits.items()}
        )


def dose_of(feature: Feature, info: BundleInfo) -> float:
    """Raw strength of dose 1.0: as measured, else half of the layer's typical norm."""
    return feature.dose if feature.dose is not None else 0.5 * info.typical_norm


def raw_strength(item: Intervention, unit: Unit, feature: Feature, info: BundleInfo) -> float:
    """A strength as a raw activation; the factor of a `scale` has no unit."""
    if item.mode == "scale":
        return item.strength
    return item.strength * {"dose": dose_of(feature, info), "max": feature.typical_max, "raw": 1.0}[unit]


def _applied(item: Intervention, raw: float, feature: Feature, bundle: Bundle) -> Applied:
    plain = item.mode == "scale"  # a factor, the same in every unit
    return Applied(
        feature=feature,
        mode=item.mode,
        strength=item.strength,
        raw=raw,
        dose=raw if plain else raw / dose_of(feature, bundle.info),
        max=raw if plain or not feature.typical_max else raw / feature.typical_max,
        layer=bundle.layer,
        measured=feature.dose is not None,
    )


def _searchable(f: Feature) -> str:
    return " ".join([f.id, f.label, *f.top_logits.get("positive", [])]).lower()


def _read_features(path: Path, bundle: str, d_sae: int) -> list[Feature]:
    rows = {i: Feature(id=f"{bundle}/{i}", index=i) for i in range(d_sae)}
    if path.exists():
        for line in path.read_text().splitlines():
            feature = Feature.model_validate({**json.loads(line), "id": ""})
            if feature.index not in rows:
                raise ValueError(f"{path.name} describes feature {feature.index}, but the SAE has {d_sae}")
            rows[feature.index] = feature.model_copy(update={"id": f"{bundle}/{feature.index}"})
    return list(rows.values())
