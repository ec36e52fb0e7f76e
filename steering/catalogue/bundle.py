"""Bundle: a folder with an SAE, its features and presets; open, create and seal it.

A bundle holds `bundle.json` (model, hook point, revision), `revisions/<revision>/` with the SAE and `features.jsonl`,
and `presets.json`. A feature's number identifies it permanently; the row of the SAE that computes it may, once the
feature is retired, compute another feature with another number.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from steering.catalogue import checksums
from steering.catalogue.feature import BundleInfo, Feature, Retired, dose_of, number_of, read_features, write_features
from steering.catalogue.feature_edits import FeatureEdit
from steering.edits import as_text
from steering.errors import BadBundle, ModelUnavailable
from steering.files import write_atomic
from steering.model.hooks import layer_number
from steering.sae import CONFIG, SAE, WEIGHTS
from steering.spec import FeatureSnapshot, Preset

NOTES = "recipe.json"
"""File in the model's folder that is not part of the model."""


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
    """Folder of the SAE."""

    @property
    def model_path(self) -> str:
        """Path or hub id of the model: a folder inside the bundle, the checkpoint of its package, or a hub id.

        Raises ModelUnavailable for a package that was not fetched.
        """
        local, package = self.folder / self.info.model, self.info.package
        if local.is_dir() or package is None:
            return str(local) if local.is_dir() else self.info.model
        if not package.is_fetched:
            raise ModelUnavailable(
                f"the model of {self.info.name!r} is not here yet; `tiller model fetch` brings it "
                f"({package.megabytes} MB), or give another one by --model"
            )
        return str(package.checkpoint)

    def to(self, device: torch.device | str) -> "Bundle":
        """Return the same bundle with its SAE on another device."""
        return replace(self, sae=self.sae.to(device))

    def check_fits(self, width: int) -> None:
        """Raise BadBundle if the SAE's `d_in` is not the width of the model's residual stream."""
        if self.sae.d_in != width:
            raise BadBundle(
                f"the SAE of {self.info.name!r} reads a stream of width {self.sae.d_in}; the model's is {width}"
            )

    @property
    def layer(self) -> int:
        """Number of the hooked layer."""
        return layer_number(self.info.hook)

    @cached_property
    def numbered(self) -> dict[int, Feature]:
        """Features by number."""
        return {f.index: f for f in self.features}

    def with_edits(self, edits: Mapping[int, FeatureEdit]) -> "Bundle":
        """Return the same bundle with manual edits, by feature number, applied to its features."""
        changed = any(f.edited for f in self.features) or any(n in self.numbered for n in edits)
        return replace(self, features=[f.with_edit(edits.get(f.index)) for f in self.features]) if changed else self

    def neighbours(self, number: int, *, top: int = 8) -> list[tuple[Feature, float]]:
        """Return the features with the nearest decoder directions, and their cosine similarities."""
        row = self.numbered[number].row
        cosines = self.sae.W_dec @ self.sae.W_dec[row]
        cosines[row] = -2
        best = cosines.topk(min(top, self.sae.d_sae - 1))
        return [(self.features[i], float(c)) for c, i in zip(best.values, best.indices.tolist(), strict=True)]

    def snapshot(self, feature: Feature) -> FeatureSnapshot:
        """Return the snapshot of a feature that a preset stores."""
        sae, row = self.sae, feature.row
        return FeatureSnapshot(
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

    def pinned(self, preset: Preset, *, kept: Mapping[str, FeatureSnapshot] | None = None) -> Preset:
        """Return the preset with a snapshot of each feature: its own, else the one in `kept`, else one of this
        revision.
        """
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
        """Write a new bundle without presets; the folder appears complete or not at all."""
        draft = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        sae.save(draft / "revisions" / info.revision, hook=info.hook, model=info.model, about=about)
        write_features(draft / "revisions" / info.revision, features or [])
        (draft / "bundle.json").write_text(info.model_dump_json(indent=1, exclude_defaults=True) + "\n")
        seal(draft)
        os.replace(draft, folder)

    @staticmethod
    def open(folder: Path) -> "Bundle":
        """Open a bundle at its shipped revision. Raises BadBundle that names the file and what is wrong with it."""
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

        `gently` takes longer, and yields the interpreter to other threads in between.
        """
        checksums.verify(folder, info.sha256)
        sae = SAE.load(files)
        presets_file = folder / "presets.json"
        try:
            presets = (
                [Preset.model_validate(p) for p in json.loads(presets_file.read_text())]
                if presets_file.exists()
                else []
            )
            numbers = numbers or tuple(range(sae.d_sae))
            features = read_features(files / "features.jsonl", info.name, numbers, sae.d_sae, gently=gently)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise BadBundle(f"the catalogue of {str(files)!r} is damaged: {error}") from error
        return Bundle(folder, info, sae, features, presets, retired or {}, files)


def read_info(folder: Path) -> BundleInfo:
    """Read `bundle.json`. Raises BadBundle."""
    try:
        return BundleInfo.model_validate_json((folder / "bundle.json").read_text())
    except (OSError, ValueError) as error:  # includes pydantic's ValidationError
        raise BadBundle(f"{str(folder)!r} is not a bundle: {error}") from error


def seal(folder: Path) -> BundleInfo:
    """Write the SHA-256 of SAE and model files into `bundle.json`: from now on, changed files are refused."""
    info = read_info(folder)
    sae = [folder / "revisions" / info.revision / name for name in (CONFIG, WEIGHTS)]
    own = (folder / info.model).resolve().is_relative_to(folder.resolve())  # a model outside the folder is not sealed
    model = [f for f in (folder / info.model).glob("*") if f.is_file() and f.name != NOTES] if own else []
    sealed = info.model_copy(update={"sha256": checksums.checksums(folder, [*sae, *model])})
    write_atomic(folder / "bundle.json", sealed.model_dump_json(indent=1, exclude_defaults=True) + "\n")
    return sealed
