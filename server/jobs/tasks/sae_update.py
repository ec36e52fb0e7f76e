"""Job type `sae_update`: trains on a corpus and on consented texts, and publishes a candidate that passes its gates.

The store names the published revision, which makes every server serve it.
"""

import asyncio
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from server.jobs.queue import GIVEN_FILE
from server.jobs.tasks.calibrate import PROGRESS, measure_features
from server.jobs.tasks.publish import revision_of_job
from server.jobs.worker import JobContext
from server.sae.corpus import corpus_token_ids, read_texts, replay_corpus_path, tokenize_texts
from server.sae.model_loading import load_model
from server.sae.served_revision import open_revisions, open_served_revision, revision_setting
from server.store.base import Store
from server.store.encryption import TextEncryption, Unreadable, pseudonym
from server.store.factory import open_store
from server.store.models import LiveText
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature
from steering.catalogue.revisions import Revisions, carry_features
from steering.errors import SteeringError
from steering.files import write_atomic
from steering.model.token_store import TokenStore
from steering.sae import SAE
from steering.spec import Preset
from steering.update import gates
from steering.update.sample import MEASURED
from steering.update.update import Candidate, Plan, Texts
from steering.update.update import update_sae as learn

TURNED = 0.99
"""A dose was measured along a direction; below this cosine to it, it is measured again."""
RESERVOIR = 20_000
"""Number of texts of earlier corpora kept, as tokens, for rehearsal."""


class SaeUpdateConfig(BaseModel):
    """Configuration of an update."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: tuple[str, ...] = ()
    """Files of new text: a second corpus."""
    live: bool = True
    """Whether to train on texts of consenting users."""
    steps: int = Field(default=600, ge=50)
    append: int = Field(default=64, ge=0)
    users: int = Field(default=20, ge=2)
    seed: int = 0
    publish: bool = True
    """Whether a candidate that passes is served at once."""


def run(work: JobContext) -> dict[str, Any]:
    """Train a candidate and, if it passes its gates, publish it; after a restart it continues where it was.

    Raises SteeringError if there is too little text.
    """
    return asyncio.run(_update(work, SaeUpdateConfig.model_validate(dict(work.config))))


async def _update(work: JobContext, order: SaeUpdateConfig) -> dict[str, Any]:
    revisions, store = open_revisions(work.settings), open_store(work.settings, patient=True)
    try:
        if (done := revision_of_job(revisions, work.id)) is None:
            parent = await _parent(work, revisions, store)
            parent.sae.check_learns()
            made, presets = await _candidate(work, order, revisions, parent, store)
            report = {
                **made.report(),
                "job": work.id,
                "parent": parent.info.revision,
                "presets": [p.id for p in presets],
            }
            if not made.passed:
                place = revisions.quarantine(report, sae=made.sae)
                work.log(f"kept aside in {place.name}: {'; '.join(report['failed'])}")
                return {"published": False, "rejected": place.name, "report": report, "figures": made.figures}
            manifest = revisions.publish(
                parent,
                made.sae,
                made.features,
                numbers=made.numbers,
                figures=made.figures,
                report=report,
                moments=made.moments,
            )
            done = manifest.revision
        manifest = revisions.manifest(done)
        if order.publish:
            await store.set_setting(revision_setting(revisions.info.name), done)
        _keep_corpus(work, order)
        work.log(f"published {done}")
        return {"published": True, "revision": done, "report": manifest.report, "figures": manifest.figures}
    finally:
        await store.close()


async def _parent(work: JobContext, revisions: Revisions, store: Store) -> Bundle:
    """The revision served when the job started, kept across restarts."""
    note = work.folder / "parent"
    if note.exists():
        return revisions.open(note.read_text())
    opened = await open_served_revision(revisions, store)
    write_atomic(note, opened.info.revision)
    return opened


async def _candidate(
    work: JobContext, order: SaeUpdateConfig, revisions: Revisions, parent: Bundle, store: Store
) -> tuple[Candidate, list[Preset]]:
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    model, tokenizer = load_model(work.settings.model or parent.model_path, "cpu")
    texts = await _texts(work, order, tokenizer, store)
    saved = [p for p in await store.presets() if p.model == revisions.info.name]
    presets = [*parent.presets, *saved]
    plan = Plan(steps=order.steps, append=order.append, users=order.users, seed=order.seed)
    work.log(
        f"{len(texts.old)} old texts, {len(texts.new)} new ones of {texts.users or 'no'} users, {MEASURED} rows held out"
    )
    try:
        made = learn(
            model,
            tokenizer,
            parent,
            revisions,
            texts,
            presets,
            plan,
            file=work.folder / "checkpoint.pt",
            tell=lambda p: work.report_progress(
                0.9 * p.step / plan.steps,
                {
                    "step": p.step,
                    "loss": p.loss,
                    "explained_variance": p.explained_variance,
                    "l0": p.l0,
                    "dead": p.dead,
                },
            ),
        )
    except ValueError as error:
        raise SteeringError(str(error)) from error
    if made.passed:
        made = replace(made, features=_with_doses(work, model, tokenizer, parent, made))
    made.sae.save(work.folder / "candidate", hook=revisions.info.hook, model=revisions.info.model)
    written = SAE.load(work.folder / "candidate")
    rows = (
        torch.randn(512, written.d_in, generator=torch.Generator().manual_seed(0))
        * parent.info.typical_norm
        / written.d_in**0.5
    )
    made.gates.append(gates.export_gate(made.sae, written, rows))
    for suspect in made.suspects:
        work.log(f"retired: a feature of which {suspect.says}")
    return made, presets


def _with_doses(
    work: JobContext, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, parent: Bundle, made: Candidate
) -> list[Feature]:
    """Recalibrate the doses that the update has invalidated: of changed directions, and of new features."""
    features = carry_features(parent, made.sae, made.numbers, made.features)
    bundle = replace(parent, sae=made.sae, features=features)
    doubtful = []
    for f in features:
        before = parent.numbered.get(f.index)
        turned = before is not None and float(made.sae.W_dec[f.row] @ parent.sae.W_dec[before.row]) < TURNED
        if f.typical_max > 0 and (before is None or (turned and before.dose is not None)):
            doubtful.append(f)
    if not doubtful:
        return made.features
    work.log(f"measuring the doses of {len(doubtful)} features that are new or have changed")
    anew = {f.index: f for f in measure_features(model, tokenizer, bundle, doubtful, done=work.folder / PROGRESS)}
    measured_fields = {"dose", "sweet_spot", "calibration", "note"}
    return [
        f.model_copy(update={k: getattr(anew[f.index], k) for k in measured_fields}) if f.index in anew else f
        for f in made.features
    ]


async def _texts(work: JobContext, order: SaeUpdateConfig, tokenizer: PreTrainedTokenizerFast, store: Store) -> Texts:
    """The job's texts, written to disk once, so that a restart trains on the same."""
    old, seal = work.folder / "old", TextEncryption.from_settings(work.settings)
    if not (work.folder / GIVEN_FILE).exists():
        live = seal.opened(await store.live_texts()) if order.live else []
        rows, people = _new_rows(order, tokenizer, live)
        if not rows:
            raise SteeringError(
                "no new text to train on: name files in `text`, or wait for texts of users who consented"
            )
        TokenStore.write(old, corpus_token_ids(work.settings, tokenizer))
        names = sorted({pseudonym(t.user) for t in live})
        write_atomic(
            work.folder / GIVEN_FILE,
            json.dumps({"names": names, "sealed": seal.encrypt(json.dumps([rows, people]), work.id)}),
        )
    rows, people = _read_given_texts(work)
    owned = people if any(p >= 0 for p in people) else None
    if owned is not None:  # a file's texts have no user: each counts as one more
        first = max(owned) + 1
        owned = [p if p >= 0 else first + i for i, p in enumerate(owned)]
    return Texts(TokenStore.open(old), TokenStore.gather(rows), owned, frozenset(tokenizer.all_special_ids))


def _read_given_texts(work: JobContext) -> tuple[list[list[int]], list[int]]:
    """New texts and their users; -1 for a file's."""
    try:
        held = json.loads((work.folder / GIVEN_FILE).read_text())
        rows, people = json.loads(TextEncryption.from_settings(work.settings).decrypt(held["sealed"], work.id))
    except (OSError, Unreadable) as error:
        raise SteeringError(f"the job's training texts are missing or cannot be read: {error}") from error
    return rows, people


def _new_rows(
    order: SaeUpdateConfig, tokenizer: PreTrainedTokenizerFast, live: list[LiveText]
) -> tuple[list[list[int]], list[int]]:
    rows: list[list[int]] = []
    owners: list[int] = []
    users = {name: i for i, name in enumerate(sorted({t.user for t in live}))}
    for text in live:
        for ids in tokenize_texts(tokenizer, [json.loads(text.messages)], longest=512):
            rows.append(ids)
            owners.append(users[text.user])
    for name in order.text:
        for ids in tokenize_texts(tokenizer, read_texts(Path(name)), longest=512):
            rows.append(ids)
            owners.append(-1)
    return rows, owners


def _keep_corpus(work: JobContext, order: SaeUpdateConfig) -> None:
    """Texts of files are kept for rehearsal; users' texts are deleted here, only the store keeps them."""
    if order.text and (work.folder / GIVEN_FILE).exists():
        kept, (new, people) = replay_corpus_path(work.settings), _read_given_texts(work)
        kept.parent.mkdir(parents=True, exist_ok=True)
        before = list(TokenStore.open(kept)) if TokenStore.exists(kept) else []
        rows = before + [ids for ids, who in zip(new, people, strict=True) if who < 0]
        draft = kept.with_name(f"{kept.name}.{work.id}")
        TokenStore.write(draft, rows[-RESERVOIR:])
        shutil.rmtree(kept, ignore_errors=True)
        os.replace(draft, kept)
    shutil.rmtree(work.folder / "old", ignore_errors=True)
    (work.folder / "checkpoint.pt").unlink(missing_ok=True)
    (work.folder / GIVEN_FILE).unlink(missing_ok=True)


JOB = (SaeUpdateConfig, run)
"""Schema and function of the job type `sae_update`."""
