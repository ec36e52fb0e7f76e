"""Features and the bundles that hold them. Knows files and SAEs; nothing of models or HTTP.

A bundle is a folder: `bundle.json` (which model, hook point, revision), `revisions/<revision>/` with
the SAE and `features.jsonl`, and `presets.json`. Strengths become raw activations here, because only
the catalogue knows what was measured for each feature. A feature's number is its name for good; the row
of the SAE that computes it may, once it is retired, compute another feature with another number.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from steering.calibration import Calibration, Knots, SweetSpot, dose_at, raw_at
from steering.catalogue import checksums
from steering.catalogue.feature_edits import Before, Edited
from steering.edits import ResidualEdit, ResolvedIntervention, as_text, compile_edit
from steering.errors import BadBundle, BadStrength, UnknownFeature
from steering.model.hooks import layer_number
from steering.sae import CONFIG, SAE, WEIGHTS
from steering.spec import VECTOR, Intervention, Preset, Snapshot, SteeringSpec, Unit

CANONICAL_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
"""One spelling per feature: `01` would be a second name for `1`, which no check for repeats would see."""
NOTES = "recipe.json"
"""What lies beside a model and is no part of it."""
BREATH = 32
"""So many features are read at a stretch where others wait for the interpreter: about a millisecond's worth."""


Kind = Literal["dead", "dense", "input-only"]


class Histogram(BaseModel):
    """How often a feature fires how strongly: counts of equal parts, from 0 on."""

    model_config = ConfigDict(frozen=True)

    width: float
    counts: tuple[int, ...]


class LabelScores(BaseModel):
    """How well a label predicts, on texts that it was not made from; each from 0 to 1, where guessing gets 0.5."""

    model_config = ConfigDict(frozen=True)

    detection: float
    """Balanced accuracy: which of some texts the feature fires in."""
    fuzzing: float | None = None
    """Balanced accuracy: whether it fires on the token that is marked."""
    control: float | None = None
    """Detection with another feature's label."""
    specificity: float | None = None
    """0 … 3, as a language model rates it; None if none was asked."""
    n: int = 0
    """How many texts."""


class Feature(BaseModel):
    """One latent of an SAE, with what was measured of it. Lengths are in units of the stream."""

    model_config = ConfigDict(frozen=True)

    id: str
    index: int
    """Its number, which never becomes another feature's."""
    row: int = -1
    """Which row of the SAE computes it; the one of its number if nothing is said."""
    label: str = ""
    label_source: str = "none"
    """`none`, `auto` (drawn from examples), `contrast` (and scored), `llm:<model>`, `fit`, `hand`, `neuronpedia…`."""
    label_scores: LabelScores | None = None
    words: tuple[str, ...] = ()
    """Words that come where it fires and seldom elsewhere."""
    kind: tuple[Kind, ...] = ()
    """What to know before it is used: it never fires, fires nearly everywhere, or says nothing when it is pushed."""
    stale: bool = False
    """Whether its direction has turned so far since it was labelled that the label may be wrong."""
    density: float = 0.0
    """Share of tokens on which it fires."""
    max_activation: float = 0.0
    """The largest activation seen."""
    typical_max: float = 0.0
    """The 99.5th percentile of the activations at which it fires: the unit `max`."""
    dose: float | None = None
    """Raw strength of dose 1.0, where it was measured."""
    sweet_spot: SweetSpot | None = None
    """Of doses above 0; those below are in the calibration."""
    calibration: Calibration | None = None
    """The dose–response curve, where it was measured."""
    histogram: Histogram | None = None
    output_score: float | None = None
    """How much likelier a strong push makes the tokens that its direction raises (`understand.outputs`)."""
    examples: list[dict[str, Any]] = []
    """Where it fires most: `text`, `token`, `at`, `activation`, and `tokens` with their `activations`."""
    samples: list[dict[str, Any]] = []
    """The same, from lower levels of its activation."""
    top_logits: dict[str, list[str]] = {}
    note: str = ""
    edited: Edited | None = None
    """What people here say of it, if anything; never in a bundle."""

    @model_validator(mode="before")
    @classmethod
    def _in_the_row_of_its_number(cls, data: Any) -> Any:  # noqa: ANN401 - whatever was given
        return {"row": data["index"], **data} if isinstance(data, dict) and "index" in data else data

    @field_validator("examples", "samples", mode="before")
    @classmethod
    def _whole(cls, told: Any) -> Any:  # noqa: ANN401 - whatever was given
        """Examples are kept without what their tokens say, too."""
        return [_whole_example(e) for e in told] if isinstance(told, list | tuple) else told

    def with_edit(self, edit: Edited | None) -> "Feature":
        """The feature as people here call it; without an edit, as it is in the bundle."""
        before = self.edited and self.edited.before
        plain = self.model_copy(update={**before.model_dump(), "edited": None}) if before else self
        if edit is None:
            return plain
        under = Before.model_validate(plain.model_dump(include=set(Before.model_fields)))
        changes: dict[str, Any] = {"edited": edit.model_copy(update={"before": under})}
        if edit.label is not None:
            changes |= {"label": edit.label, "label_source": "hand", "stale": False}
        return plain.model_copy(update=changes | ({"note": edit.note} if edit.note is not None else {}))

    def line(self) -> str:
        """The feature as a line of `features.jsonl`."""
        told = self.model_dump(exclude={"id", "edited"}, exclude_defaults=True)
        told |= {k: [_short_example(e) for e in told[k]] for k in ("examples", "samples") if k in told}
        if self.row == self.index:
            del told["row"]
        return json.dumps(told, ensure_ascii=False, separators=(",", ":")) + "\n"


class Retired(BaseModel):
    """What is left of a feature whose row was given to another."""

    model_config = ConfigDict(frozen=True)

    revision: str
    """The first that doesn't have it."""
    label: str = ""


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
    sha256: dict[str, str] = {}
    """Of each file of the SAE and, if it lies here, the model, by its place in the bundle; `tiller sae seal` writes it."""


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
    gone: bool = False
    """Whether the SAE does not have it, and a snapshot steered."""

    @property
    def vector(self) -> bool:
        """Whether it is somebody's named vector, and no feature of an SAE."""
        return self.feature.id.startswith(VECTOR)

    @property
    def in_sweet_spot(self) -> bool | None:
        """Whether the dose lies where the concept shows and the reply holds; None if not measured."""
        spot = self.spot
        return None if spot is None else spot.holds(self.dose)

    @property
    def spot(self) -> SweetSpot | None:
        """The sweet spot on the dose's side of 0."""
        told = self.feature.calibration
        return (told.negative if told else None) if self.dose < 0 else self.feature.sweet_spot


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
    pinned: str = ""
    """What snapshots changed, where they did."""

    @cached_property
    def fingerprint(self) -> str:
        """Name what will be done: the spec's fingerprint, told apart where a preset's snapshots mean something else."""
        plain = self.spec.fingerprint
        return "s_" + hashlib.sha256((plain + self.pinned).encode()).hexdigest()[:16] if self.pinned else plain


@dataclass(frozen=True, eq=False)
class Bundle:
    """An open bundle, at one revision of its SAE."""

    folder: Path
    info: BundleInfo
    sae: SAE
    features: list[Feature]
    """One for each row of the SAE, in the order of the rows."""
    presets: list[Preset] = field(default_factory=list)
    retired: Mapping[int, Retired] = field(default_factory=dict)
    files: Path = Path()
    """The folder of the SAE."""

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

    @cached_property
    def numbered(self) -> dict[int, Feature]:
        """The features by their numbers."""
        return {f.index: f for f in self.features}

    def with_edits(self, edits: Mapping[int, Edited]) -> "Bundle":
        """The same bundle with its features as people call them, by number."""
        changed = any(f.edited for f in self.features) or any(n in self.numbered for n in edits)
        return replace(self, features=[f.with_edit(edits.get(f.index)) for f in self.features]) if changed else self

    def neighbours(self, number: int, *, top: int = 8) -> list[tuple[Feature, float]]:
        """Return the features whose directions are nearest, with their cosines."""
        row = self.numbered[number].row
        cosines = self.sae.W_dec @ self.sae.W_dec[row]
        cosines[row] = -2
        best = cosines.topk(min(top, self.sae.d_sae - 1))
        return [(self.features[i], float(c)) for c, i in zip(best.values, best.indices.tolist(), strict=True)]

    def snapshot(self, feature: Feature) -> Snapshot:
        """Return what a preset keeps of a feature."""
        sae, row = self.sae, feature.row
        return Snapshot(
            id=feature.id,
            revision=self.info.revision,
            label=feature.label,
            direction=as_text(sae.W_dec[row]),
            encoder=as_text(sae.W_enc[:, row]),
            bias=float(sae.b_enc[row]),
            threshold=float(sae.threshold[row]),
            typical_max=feature.typical_max,
            dose=dose_of(feature, self.info),
            knots=feature.calibration.knots if feature.calibration else (),
            measured=feature.dose is not None,
        )

    def pinned(self, preset: Preset, *, kept: Mapping[str, Snapshot] | None = None) -> Preset:
        """Return the preset with a snapshot of each of its features: its own, one that is `kept`, or as it is here."""
        held, taken = {**(kept or {}), **preset.pins}, []
        for item in preset.steering.features:
            here = self.numbered.get(number_of(item.id))
            if item.id in held:
                taken.append(held[item.id])
            elif here and here.id == item.id:
                taken.append(self.snapshot(here))
        return preset.model_copy(update={"snapshots": tuple(taken)})

    @staticmethod
    def create(
        folder: Path, info: BundleInfo, sae: SAE, *, features: list[Feature] | None = None, about: dict[str, Any]
    ) -> None:
        """Write a new bundle without presets; it is there whole or not at all."""
        draft = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        sae.save(draft / "revisions" / info.revision, hook=info.hook, model=info.model, about=about)
        write_features(draft / "revisions" / info.revision, features or [])
        (draft / "bundle.json").write_text(info.model_dump_json(indent=1, exclude_defaults=True) + "\n")
        seal(draft)
        os.replace(draft, folder)

    @staticmethod
    def open(folder: Path) -> "Bundle":
        """Read a bundle as it was shipped. Raises BadBundle that names the file and what is wrong with it."""
        info = read_info(folder)
        return Bundle.read(folder, info, folder / "revisions" / info.revision)

    @staticmethod
    def read(
        folder: Path,
        info: BundleInfo,
        files: Path,
        *,
        numbers: tuple[int, ...] = (),
        retired: Mapping[int, Retired] | None = None,
        gently: bool = False,
    ) -> "Bundle":
        """Read the revision whose SAE and features are in `files`. Raises BadBundle.

        `gently` takes longer and leaves the interpreter to other threads in between.
        """
        checksums.check(folder, info.sha256)
        sae = SAE.load(files)
        presets_file = folder / "presets.json"
        try:
            presets = (
                [Preset.model_validate(p) for p in json.loads(presets_file.read_text())]
                if presets_file.exists()
                else []
            )
            numbers = numbers or tuple(range(sae.d_sae))
            features = _read_features(files / "features.jsonl", info.name, numbers, sae.d_sae, gently=gently)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise BadBundle(f"the catalogue of {str(files)!r} is damaged: {error}") from error
        return Bundle(folder, info, sae, features, presets, retired or {}, files)


class Catalogue:
    """All features that can be steered: one or more open bundles of the same model."""

    def __init__(self, bundles: list[Bundle]) -> None:
        self.bundles = {b.info.name: b for b in bundles}

    def __iter__(self) -> Iterator[Feature]:
        for bundle in self.bundles.values():
            yield from bundle.features

    def find(self, feature_id: str) -> tuple[Bundle, Feature]:
        """Look a feature up. Raises UnknownFeature with what there is instead."""
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

    def resolve(self, spec: SteeringSpec, pins: Mapping[str, Snapshot] | None = None) -> Resolved:
        """Turn a spec's strengths into raw activations and its interventions into edits.

        A feature with a snapshot among the `pins` has its strength in the snapshot's units, and is steered by the
        snapshot itself where this revision doesn't have it; of a named vector there is nothing else. Raises
        UnknownFeature and BadStrength.
        """
        spec = spec.canonical()
        chosen: dict[str, list[ResolvedIntervention]] = {}
        applied, changed = [], []
        for item in spec.features:
            pin = (pins or {}).get(item.id)
            bundle, feature, gone = self._meant(item, pin)
            if gone and pin and not pin.encoder and item.mode != "add":
                raise BadStrength(
                    f"{item.id!r} cannot be steered by {item.mode!r}, for nothing reads it; use the mode 'add', or make it "
                    "by the method 'probe'"
                )
            raw = raw_strength(item, spec.unit, feature, bundle.info, pin=pin)
            chosen.setdefault(bundle.info.name, []).append(
                ResolvedIntervention(feature.row, item.mode, raw, spec.scale, pin if gone else None)
            )
            if gone or raw != raw_strength(item, spec.unit, feature, bundle.info):
                changed.append([item.id, raw, pin.model_dump() if pin and gone else None])
            whole = raw * (1 if item.mode == "scale" else spec.scale)
            applied.append(replace(_applied(item, whole, feature, bundle), gone=gone))
        edits = {self.bundles[n].info.hook: compile_edit(items, self.bundles[n].sae) for n, items in chosen.items()}
        asked = {self.bundles[n].info.hook: tuple(items) for n, items in chosen.items()}
        norms = {b.info.hook: b.info.typical_norm for b in self.bundles.values()}
        push_norm = {h: float(e.push.norm()) / norms[h] for h, e in edits.items()}
        return Resolved(spec, tuple(applied), edits, asked, push_norm, json.dumps(changed) if changed else "")

    def _meant(self, item: Intervention, pin: Snapshot | None) -> tuple[Bundle, Feature, bool]:
        """The feature that an intervention names, and whether only its snapshot is left."""
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
            told = Feature(
                id=pin.id,
                index=number,
                label=pin.label,
                typical_max=pin.typical_max,
                dose=dose,
                calibration=curve,
            )
            return bundle, told, True


def number_of(feature_id: str) -> int:
    """The number in a feature's id; −1 if there is none."""
    number = feature_id.rpartition("/")[2]
    return int(number) if CANONICAL_INDEX.fullmatch(number) else -1


def read_info(folder: Path) -> BundleInfo:
    """Read `bundle.json`. Raises BadBundle."""
    try:
        return BundleInfo.model_validate_json((folder / "bundle.json").read_text())
    except (OSError, ValueError) as error:  # a ValidationError is one
        raise BadBundle(f"{str(folder)!r} is not a bundle: {error}") from error


def seal(folder: Path) -> BundleInfo:
    """Write the SHA-256 of SAE and model into `bundle.json`: from now on nothing else is opened."""
    info = read_info(folder)
    sae = [folder / "revisions" / info.revision / name for name in (CONFIG, WEIGHTS)]
    own = (folder / info.model).resolve().is_relative_to(folder.resolve())  # what lies elsewhere is not the bundle's
    model = [f for f in (folder / info.model).glob("*") if f.is_file() and f.name != NOTES] if own else []
    sealed = info.model_copy(update={"sha256": checksums.of(folder, [*sae, *model])})
    draft = folder / "bundle.json.tmp"
    draft.write_text(sealed.model_dump_json(indent=1, exclude_defaults=True) + "\n")
    os.replace(draft, folder / "bundle.json")
    return sealed


def write_features(files: Path, features: Iterable[Feature]) -> None:
    """Write `features.jsonl`; a reader sees the old one or the new, never half of one."""
    (files / "features.jsonl.tmp").write_text("".join(f.line() for f in features), encoding="utf-8")
    os.replace(files / "features.jsonl.tmp", files / "features.jsonl")


def dose_of(feature: Feature, info: BundleInfo) -> float:
    """Raw strength of dose 1.0: as measured, else half of the layer's typical norm."""
    return feature.dose if feature.dose is not None else 0.5 * info.typical_norm


def knots_of(measured: Feature | Snapshot, dose: float) -> Knots:
    """Pairs of dose and raw strength: as measured, else the line through the raw strength of dose 1.0."""
    told = measured.knots if isinstance(measured, Snapshot) else measured.calibration and measured.calibration.knots
    return told or ((-1.0, -dose), (0.0, 0.0), (1.0, dose))


def raw_strength(
    item: Intervention, unit: Unit, feature: Feature, info: BundleInfo, *, pin: Snapshot | None = None
) -> float:
    """A strength as a raw activation, in the units of the `pin` if there is one; the factor of a `scale` has no unit."""
    if item.mode == "scale" or unit == "raw":
        return item.strength
    if unit == "max":
        return item.strength * (pin or feature).typical_max
    return raw_at(item.strength, knots_of(pin or feature, pin.dose if pin else dose_of(feature, info)))


def _applied(item: Intervention, raw: float, feature: Feature, bundle: Bundle) -> Applied:
    plain = item.mode == "scale"  # a factor, the same in every unit
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


def _short_example(example: dict[str, Any]) -> dict[str, Any]:
    """Without what follows from the tokens."""
    short = {k: v for k, v in example.items() if k not in ("text", "token")}
    return short if "tokens" in example and _whole_example(short) == example else example


def _whole_example(example: Any) -> Any:  # noqa: ANN401 - whatever was given
    if not isinstance(example, dict) or not {"tokens", "at"} <= example.keys() or "text" in example:
        return example
    tokens, at = example["tokens"], example["at"]
    return {"text": "".join(tokens), "token": tokens[at], **example}


def _read_features(path: Path, bundle: str, numbers: tuple[int, ...], d_sae: int, *, gently: bool) -> list[Feature]:
    if len(numbers) != d_sae or len(set(numbers)) != d_sae:
        raise ValueError(f"{len(set(numbers))} features' numbers for {d_sae} rows")
    row_of = {number: row for row, number in enumerate(numbers)}
    told: dict[int, Feature] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for i, line in enumerate(lines):
        if gently and i % BREATH == 0:
            time.sleep(0.002)
        found = json.loads(line)
        number = found.get("index") if isinstance(found, dict) else None
        if not isinstance(number, int) or number not in row_of:
            raise ValueError(f"{path.name} describes feature {number}, but the SAE has {d_sae}")
        told[number] = Feature.model_validate({**found, "id": f"{bundle}/{number}", "row": row_of[number]})
    return [told.get(n) or Feature(id=f"{bundle}/{n}", index=n, row=row) for row, n in enumerate(numbers)]
