"""Job type `calibrate`: measures doses, in a server's revision or in a bundle.

A server's measurements become a new revision with the same SAE: it is published, activated and
rolled back like any other, and presets keep the units they were saved in.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from server.jobs.tasks.publish import publish_features, revision_of_job
from server.jobs.worker import JobContext
from server.sae.model_loading import load_model, measuring_dtype
from server.sae.served_revision import open_revisions, open_served_revision
from server.settings import Settings
from server.store.base import Conflict, Store
from server.store.factory import open_store
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature, number_of, write_features
from steering.catalogue.resolve import Catalogue
from steering.doses.bundle_doses import convert_doses, with_decisions, with_doses, with_scale
from steering.doses.rollouts import QUESTIONS
from steering.doses.screen import promise, screen
from steering.errors import BadBundle
from steering.files import write_atomic
from steering.spec import Preset

PROGRESS, SCREENED = "calibrated.jsonl", "screened.jsonl"
"""Files of the features that are measured and screened so far; they last until all are done."""
MEASURED = {"dose", "sweet_spot", "calibration", "note"}
"""Fields of a feature that a calibration writes."""
OnProgress = Callable[[int, int], None]


class CalibrateConfig(BaseModel):
    """Which features to calibrate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: tuple[str, ...] = ()
    """Feature ids."""
    presets: bool = True
    """The features of all presets, and each preset's own scale."""
    all: bool = False
    """Every feature that is ever active."""
    screen: bool = False
    """Screen all features that are ever active first: four short replies each."""
    best: int = Field(default=0, ge=0)
    """This many features that promise most by their screening."""
    prompts: int = Field(default=32, ge=4, le=32)
    """Number of the fixed prompts to use; fewer are faster and less precise."""


def select_features(bundle: Bundle, order: CalibrateConfig, presets: Sequence[Preset]) -> list[Feature]:
    """The features of a request. Raises UnknownFeature and BadBundle."""
    catalogue = Catalogue([bundle])
    found = {f.index: f for name in order.features for f in (catalogue.find(name)[1],)}
    if order.all:
        found |= {f.index: f for f in bundle.features}
    if order.best:
        screened = [f for f in bundle.features if f.screening]
        if not screened:
            raise BadBundle("no feature is screened yet; run `tiller calibrate --screen` first, or add --screen")
        found |= {f.index: f for f in sorted(screened, key=promise, reverse=True)[: order.best]}
    if order.presets and not order.all:
        numbers = [number_of(i.id) for p in presets for i in p.steering.features]
        found |= {n: bundle.numbered[n] for n in numbers if n in bundle.numbered}
    if not any(f.typical_max > 0 for f in found.values()):
        raise BadBundle(
            "nothing to calibrate: none of the features is known to be active anywhere; run `tiller describe` first"
        )
    return list(found.values())


def measure_features(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    bundle: Bundle,
    features: Sequence[Feature],
    *,
    prompts: int = 32,
    done: Path | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> list[Feature]:
    """The features with their doses and today's date.

    `done` is a file to which each measured feature is appended; those that are in it already are not measured again.
    """
    date, questions = time.strftime("%Y-%m-%d", time.gmtime()), QUESTIONS[:prompts]
    known = _done_before(done, bundle, MEASURED) if done else {}
    rest = [f for f in features if f.index not in known]

    def keep(feature: Feature) -> None:
        if done:
            _append(done, feature)

    def report(n: int, of: int) -> None:
        on_progress(len(known) + n, len(known) + of)

    found = with_doses(
        model, tokenizer, bundle, rest, date=date, questions=questions, on_feature=keep, on_progress=report
    )
    anew = {f.index: f for f in found}
    return with_decisions([anew.get(f.index) or known[f.index] for f in features])


def screen_features(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    bundle: Bundle,
    *,
    done: Path,
    on_progress: OnProgress = lambda *_: None,
) -> Bundle:
    """The bundle with all its active features screened, and `input-only` where nothing shows.

    `done` is a file to which each screened feature is appended; those that are in it already are not screened again.
    """
    alive = [f for f in bundle.features if f.typical_max > 0]
    known = _done_before(done, bundle, {"screening"})
    rest, n = [f for f in alive if f.index not in known], len(known)

    def keep(feature: Feature) -> None:
        nonlocal n
        n += 1
        _append(done, feature)
        on_progress(n, len(alive))

    anew = known | {f.index: f for f in screen(model, tokenizer, bundle, rest, on_feature=keep)}
    return replace(bundle, features=[_with_kind(anew.get(f.index, f)) for f in bundle.features])


def _with_kind(f: Feature) -> Feature:
    if f.screening is None:
        return f
    others = tuple(k for k in f.kind if k != "input-only")
    return f.model_copy(update={"kind": others if f.screening.shown > 0 else (*others, "input-only")})


def _append(file: Path, feature: Feature) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write("\n" + feature.line())  # a line that was cut off ends here


def _done_before(done: Path, bundle: Bundle, fields: set[str]) -> dict[int, Feature]:
    """Features in a progress file, with what else the bundle knows of them; a line that was cut off is left out."""
    found: dict[int, Feature] = {}
    for line in done.read_text(encoding="utf-8").splitlines() if done.exists() else []:
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError:
            continue
        mine = Feature.model_validate({**row, "id": f"{bundle.info.name}/{row['index']}"})
        held = bundle.numbered.get(mine.index)
        current = "calibration" not in fields or (
            mine.calibration is not None and mine.calibration.revision == bundle.info.revision
        )
        if held and current:
            found[mine.index] = held.model_copy(update={k: getattr(mine, k) for k in fields})
    return found


def measure_presets(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, bundle: Bundle, presets: Sequence[Preset]
) -> list[Preset]:
    """The presets with the best value of their scale, and today's date."""
    return with_scale(model, tokenizer, bundle, presets, date=time.strftime("%Y-%m-%d", time.gmtime()))


def calibrate_bundle(
    settings: Settings, order: CalibrateConfig, on_progress: OnProgress
) -> tuple[list[Feature], list[Preset]]:
    """Calibrate a bundle in its original form and write the result to its folder; its presets keep their push.

    Returns the measurements. Killed, the next call goes on after the last feature that was measured.
    """
    bundle = Bundle.open(settings.bundle)
    bundle.sae.check_reads()
    model, tokenizer = load_model(settings.model or bundle.model_path, "cpu", dtype=measuring_dtype())
    if order.screen:
        bundle = screen_features(model, tokenizer, bundle, done=bundle.files / SCREENED, on_progress=on_progress)
        write_features(bundle.files, bundle.features)
        (bundle.files / SCREENED).unlink(missing_ok=True)
    wanted, progress = select_features(bundle, order, bundle.presets), bundle.files / PROGRESS
    done = measure_features(
        model, tokenizer, bundle, wanted, prompts=order.prompts, done=progress, on_progress=on_progress
    )
    anew = {f.index: f for f in done}
    features = [anew.get(f.index, f) for f in bundle.features]
    presets = [convert_doses(p, bundle, features) for p in bundle.presets]
    after = replace(bundle, features=features)
    if order.presets:
        presets = measure_presets(model, tokenizer, after, presets)
    _write_bundle(after, presets)
    progress.unlink(missing_ok=True)
    return done, presets


def run(work: JobContext) -> dict[str, Any]:
    """Run a `calibrate` job: publishes a revision with the same SAE and new doses, served at once."""
    return asyncio.run(_calibrate(work, CalibrateConfig.model_validate(dict(work.config))))


async def _calibrate(work: JobContext, order: CalibrateConfig) -> dict[str, Any]:
    revisions, store = open_revisions(work.settings), open_store(work.settings, patient=True)
    try:
        if before := revision_of_job(revisions, work.id):
            return {"revision": before, "features": 0, "presets": 0}
        parent = await open_served_revision(revisions, store)
        parent.sae.check_reads()
        saved = [p for p in await store.presets() if p.model == revisions.info.name]
        name = work.settings.model or parent.model_path
        model, tokenizer = await asyncio.to_thread(load_model, name, "cpu", dtype=measuring_dtype())

        def on_progress(n: int, of: int) -> None:
            work.report_progress(0.9 * n / of, {"features": n})

        if order.screen:
            done, found = work.folder / SCREENED, screen_features
            parent = await asyncio.to_thread(found, model, tokenizer, parent, done=done, on_progress=on_progress)
        wanted = select_features(parent, order, [*parent.presets, *saved])
        features = await asyncio.to_thread(
            measure_features,
            model,
            tokenizer,
            parent,
            wanted,
            prompts=order.prompts,
            done=work.folder / PROGRESS,
            on_progress=on_progress,
        )
        scales = await _save_scales(store, saved, parent, model, tokenizer) if order.presets else 0
        report = {"job": work.id, "calibrated": len(features), "works": sum(_has_effect(f) for f in features)}
        screened = {f.index: f for f in parent.features} if order.screen else {}
        changed = [*(screened | {f.index: f for f in features}).values()]
        revision = await publish_features(revisions, store, parent, changed, report)
        work.log(f"published {revision}: {len(features)} doses")
        return {"revision": revision, "features": len(features), "presets": scales}
    finally:
        await store.close()


async def _save_scales(
    store: Store,
    saved: Sequence[Preset],
    parent: Bundle,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
) -> int:
    found = await asyncio.to_thread(measure_presets, model, tokenizer, parent, saved)
    kept = 0
    for preset in found:
        try:
            await store.save_preset(preset, based_on=preset.version)
            kept += 1
        except Conflict:
            pass  # a concurrent change: the preset is no longer the one measured
    return kept


def _has_effect(f: Feature) -> bool:
    return bool(f.calibration and f.calibration.works)


def _write_bundle(bundle: Bundle, presets: Sequence[Preset]) -> None:
    files = bundle.folder / "revisions" / bundle.info.revision
    write_features(files, bundle.features)
    if presets:
        rows = [p.model_dump(exclude_defaults=True, mode="json") for p in presets]
        write_atomic(bundle.folder / "presets.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


JOB = (CalibrateConfig, run)
"""Schema and function of the job type `calibrate`."""
