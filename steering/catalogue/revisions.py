"""Revisions of a bundle's SAE: publish, open, and quarantine of rejected candidates.

The shipped revision stays unchanged in `base`. Later ones are `<live>/r<N>/`, a folder with the SAE, `features.jsonl`
and `manifest.json`, which appears complete or not at all: it is written as a draft, synced to disk, and renamed. Names
and feature numbers are never reused, also not after a rollback.
"""

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from steering.catalogue.bundle import Bundle, read_info
from steering.catalogue.feature import Feature, Retired, write_features
from steering.errors import BadBundle, SteeringError
from steering.files import path_below, sha256
from steering.sae import CONFIG, SAE, WEIGHTS
from steering.spec import Preset

MANIFEST, MOMENTS = "manifest.json", "moments.safetensors"
NAME = re.compile(r"r([1-9][0-9]{0,8})")
STALE = 0.95
"""A label was found for a direction; below this cosine to the parent's direction the label may be wrong."""
REJECTED = 8
"""Number of rejected candidates that are kept."""


class Manifest(BaseModel):
    """Contents of `manifest.json`: one revision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    revision: str
    parent: str | None = None
    created: int = 0
    """Seconds since 1970."""
    model: str
    hook: str
    d_in: int
    d_sae: int
    typical_norm: float
    numbers: tuple[int, ...] = ()
    """Number of each row's feature; empty where every row has its own."""
    next_number: int
    """Lowest number that no revision has used."""
    shipped: str
    """SHA-256 of the SAE that was shipped with the bundle: with another one, numbers mean other features."""
    retired: dict[int, Retired] = {}
    figures: dict[str, float] = {}
    """Metrics by name."""
    report: dict[str, Any] = {}
    """Results of its gates."""
    sha256: dict[str, str] = {}
    """Checksums of the files beside the manifest."""

    @property
    def by_row(self) -> tuple[int, ...]:
        """Number of each row's feature."""
        return self.numbers or tuple(range(self.d_sae))


class Revisions:
    """All revisions of one bundle: `base` as shipped and read-only, `live` a writable folder."""

    def __init__(self, base: Path, live: Path) -> None:
        self.base, self.live = base, live
        self.info = read_info(base)

    def names(self) -> list[str]:
        """Return the names of all revisions: the shipped one first, then in the order of publication."""
        return [self.info.revision, *(f"r{n}" for n in self._live_numbers() if f"r{n}" != self.info.revision)]

    def manifest(self, revision: str) -> Manifest:
        """Return a revision's manifest. Raises BadBundle with the names that exist."""
        if revision == self.info.revision:
            return self._shipped
        path = self.live / revision / MANIFEST
        if not NAME.fullmatch(revision) or not path.exists():
            raise BadBundle(f"{self.info.name!r} has no revision {revision!r}; there are {', '.join(self.names())}")
        try:
            found = Manifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise BadBundle(f"{str(path)!r} is damaged: {error}; activate another revision") from error
        theirs, ours = (found.bundle, found.model, found.hook), (self.info.name, self.info.model, self.info.hook)
        if theirs != ours or found.revision != revision:
            raise BadBundle(
                f"{str(path)!r} is of {' '.join(theirs)}, not of {' '.join(ours)}; activate another revision"
            )
        if found.shipped != self._shipped.shipped:
            raise BadBundle(
                f"{str(path)!r} came from another {self.info.revision!r} of {self.info.name!r}; activate that one"
            )
        return found

    def open(self, revision: str, *, gently: bool = False) -> Bundle:
        """Read a revision and verify the SHA-256 of every file. Raises BadBundle that names the file.

        `gently` takes longer, and yields the interpreter to other threads in between. Its presets are the shipped ones,
        with the units and snapshots of the revision they were made for.
        """
        manifest = self.manifest(revision)
        if revision == self.info.revision:
            bundle = Bundle.read(self.base, self.info, self.base / "revisions" / revision, gently=gently)
        else:
            files = self.live / revision
            self._verify(files, manifest)
            changes = {"revision": revision, "typical_norm": manifest.typical_norm, "metrics": manifest.figures}
            info = self.info.model_copy(update=changes)
            numbers, retired = manifest.numbers, manifest.retired
            bundle = Bundle.read(self.base, info, files, numbers=numbers, retired=retired, gently=gently)
            bundle.check_fits(self._shipped.d_in)
        return replace(bundle, presets=self._presets)

    def numbers_after(self, parent: str, *, recycled: Iterable[int] = (), grown: int = 0) -> tuple[int, ...]:
        """Return the numbers of a child's rows: the parent's, with new ones for `recycled` rows and `grown` more at the
        end.
        """
        numbers = list(self.manifest(parent).by_row)
        rows, first = sorted(set(recycled)), self._next_number()
        for new, row in enumerate([*rows, *range(len(numbers), len(numbers) + grown)], first):
            numbers[row : row + 1] = [new]
        return tuple(numbers)

    def publish(
        self,
        parent: Bundle,
        sae: SAE,
        features: Iterable[Feature] = (),
        *,
        numbers: Sequence[int] | None = None,
        typical_norm: float | None = None,
        figures: Mapping[str, float] | None = None,
        report: Mapping[str, Any] | None = None,
        moments: Mapping[str, Tensor] | None = None,
    ) -> Manifest:
        """Write a new revision and return its manifest; the revision that is served does not change.

        `features` are measurements, by number: a field that one sets is taken, every other is carried over from the
        parent's feature of that number. `numbers` are those of the rows (`numbers_after`; by default the parent's): a
        number of the parent that is missing here is retired. `moments` are the optimiser's, and are stored for the next
        training (`moments`). Raises BadBundle for arguments that do not match.
        """
        with self._publishing():
            revision = f"r{self._next_name()}"
            before = self.manifest(parent.info.revision)
            rows = tuple(before.by_row if numbers is None else numbers)
            self._check(before, sae, rows)
            gone = {n: Retired(revision=revision, label=parent.numbered[n].label) for n in {*before.by_row} - {*rows}}
            draft = self.live / f".draft-{revision}"
            about = {"tiller_bundle": self.info.name, "tiller_revision": revision}
            sae.save(draft, hook=self.info.hook, model=self.info.model, about=about)
            write_features(draft, carry_features(parent, sae, rows, features))
            if moments:  # bfloat16, half the size: they only scale the step
                save_file({n: t.bfloat16().contiguous() for n, t in moments.items()}, draft / MOMENTS)
            manifest = Manifest(
                bundle=self.info.name,
                revision=revision,
                parent=before.revision,
                created=int(time.time()),
                model=self.info.model,
                hook=self.info.hook,
                d_in=sae.d_in,
                d_sae=sae.d_sae,
                typical_norm=parent.info.typical_norm if typical_norm is None else typical_norm,
                numbers=() if rows == tuple(range(sae.d_sae)) else rows,
                next_number=max(self._next_number(), max(rows) + 1),
                shipped=before.shipped,
                retired={**before.retired, **gone},
                figures=dict(figures or {}),
                report=dict(report or {}),
                sha256={p.name: sha256(p) for p in sorted(draft.iterdir())},
            )
            (draft / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
            _to_disk(draft)
            draft.rename(self.live / revision)
            _sync(self.live)
        return manifest

    def moments(self, revision: str) -> dict[str, Tensor]:
        """Return the optimiser's moments that a revision was published with; empty without. Raises BadBundle."""
        path = self.live / revision / MOMENTS
        if not path.exists():
            return {}
        try:
            return {n: t.float() for n, t in load_file(path).items()}
        except (OSError, SafetensorError) as error:
            raise BadBundle(f"{str(path)!r} is damaged: {error}; delete it to start without it") from error

    def quarantine(self, report: Mapping[str, Any], *, sae: SAE | None = None) -> Path:
        """Store a rejected candidate and the reasons in `rejected/`; only the last few are kept."""
        with self._publishing():
            folder = self.live / "rejected"
            folder.mkdir(exist_ok=True)
            held = sorted((p for p in folder.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
            new = folder / str(int(held[-1].name) + 1 if held else 1)
            draft = self.live / ".draft-rejected"
            draft.mkdir()
            if sae:
                sae.save(draft, hook=self.info.hook, model=self.info.model)
            (draft / "report.json").write_text(json.dumps(dict(report), indent=1, ensure_ascii=False) + "\n")
            draft.rename(new)
            for old in held[: -REJECTED + 1]:
                shutil.rmtree(old, ignore_errors=True)
        return new

    @cached_property
    def _presets(self) -> list[Preset]:
        shipped = Bundle.open(self.base)
        return [shipped.pinned(p) for p in shipped.presets]

    @cached_property
    def _shipped(self) -> Manifest:
        path = self.base / "revisions" / self.info.revision / CONFIG
        try:
            config = json.loads(path.read_text())
            d_in, d_sae = int(config["d_in"]), int(config["d_sae"])
            shipped = sha256(path.with_name(WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadBundle(f"{str(path)!r} is damaged: {error!r}") from error
        return Manifest(
            bundle=self.info.name,
            revision=self.info.revision,
            created=int((self.base / "bundle.json").stat().st_mtime),
            model=self.info.model,
            hook=self.info.hook,
            d_in=d_in,
            d_sae=d_sae,
            typical_norm=self.info.typical_norm,
            next_number=d_sae,
            shipped=shipped,
            figures=self.info.metrics,
        )

    def _live_numbers(self) -> list[int]:
        found = (NAME.fullmatch(p.name) for p in self.live.iterdir()) if self.live.is_dir() else ()
        return sorted(int(m[1]) for m in found if m)

    def _next_name(self) -> int:
        shipped = NAME.fullmatch(self.info.revision)
        return max([*self._live_numbers(), int(shipped[1]) if shipped else 0]) + 1

    def _next_number(self) -> int:
        """Next free feature number. The last revision's manifest covers all before it."""
        last = self.names()[-1]
        return max(self.manifest(last).next_number, self._shipped.next_number)

    def _check(self, before: Manifest, sae: SAE, numbers: tuple[int, ...]) -> None:
        if sae.d_in != before.d_in:
            raise BadBundle(
                f"this SAE reads a stream of width {sae.d_in}; {before.revision!r} reads one of {before.d_in}"
            )
        if len(numbers) != sae.d_sae or len(set(numbers)) != sae.d_sae:
            raise BadBundle(
                f"{len(set(numbers))} feature numbers for the {sae.d_sae} rows of the SAE; give each its own"
            )
        first = self._next_number()
        if used := sorted(n for n in {*numbers} - {*before.by_row} if n < first):
            raise BadBundle(f"feature number {used[0]} was used before; new features are numbered from {first} on")

    def _verify(self, files: Path, manifest: Manifest) -> None:
        for name, expected in manifest.sha256.items():
            try:
                found = sha256(path_below(files, name))
            except (OSError, SteeringError) as error:
                raise BadBundle(f"cannot read {str(files / name)!r}: {error}; activate another revision") from error
            if found != expected:
                raise BadBundle(
                    f"{str(files / name)!r} differs from the published file (SHA-256); activate another revision"
                )

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """Hold the lock for one writer at a time, and delete the drafts of writers that were killed."""
        self.live.mkdir(parents=True, exist_ok=True)
        with (self.live / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for draft in self.live.glob(".draft-*"):
                shutil.rmtree(draft, ignore_errors=True)
            yield


def carry_features(parent: Bundle, sae: SAE, numbers: Sequence[int], measured: Iterable[Feature] = ()) -> list[Feature]:
    """Return features for the rows of `sae`: measurements, on top of the parent's feature of the same number.

    A carried-over label is stale if its direction has turned (cosine below 0.95).
    """
    by_number = {f.index: f for f in measured}
    if unknown := sorted(by_number.keys() - {*numbers}):
        raise BadBundle(f"feature {unknown[0]} was measured, but no row of the SAE computes it")
    found = []
    for row, number in enumerate(numbers):
        new, old = by_number.get(number), parent.numbered.get(number)
        fields = old.model_dump() if old else {}
        fields |= new.model_dump(include=new.model_fields_set) if new else {}
        if old and not (new and new.label and "label" in new.model_fields_set and new.label != old.label):
            turned = float(sae.W_dec[row].cpu() @ parent.sae.W_dec[old.row].cpu()) < STALE
            fields["stale"] = bool(old.label) and (old.stale or turned or bool(new and new.stale))
        found.append(
            Feature.model_validate({**fields, "id": f"{parent.info.name}/{number}", "index": number, "row": row})
        )
    return found


def _to_disk(folder: Path) -> None:
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
