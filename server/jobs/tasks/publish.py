"""Publishing of measurements: writes them to a bundle, or to a new revision that the server follows.

Common to the jobs and commands that measure features.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from server.jobs.worker import JobContext
from server.sae.corpus import corpus_token_ids
from server.sae.model_loading import load_model
from server.sae.served_revision import open_revisions, open_served_revision, revision_setting
from server.settings import Settings
from server.store.base import Store
from server.store.factory import open_store
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature, write_features
from steering.catalogue.revisions import Revisions, carry_features
from steering.errors import BadBundle
from steering.model.activations import padded_batches

LONGEST = 256
"""Maximum number of tokens read of a text."""
OnProgress = Callable[[int, int], None]
"""Called with the number done, and the total."""


@dataclass(frozen=True, eq=False)
class MeasurementInputs:
    """Model, SAE and corpus of a measurement."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    bundle: Bundle
    texts: list[list[int]]


@dataclass(frozen=True)
class Measurement:
    """Result of a measurement: feature rows, and figures of the whole."""

    features: Sequence[Feature]
    figures: Mapping[str, float]


Measure = Callable[[MeasurementInputs, OnProgress], Measurement]


def write_bundle(settings: Settings, measure: Measure, on_progress: OnProgress) -> Measurement:
    """Measure a bundle in its original form and write the result to its folder, all or nothing; returns the result."""
    bundle = Bundle.open(settings.bundle)
    found = measure(_load_inputs(settings, bundle), on_progress)
    after = carry_features(bundle, bundle.sae, [f.index for f in bundle.features], found.features)
    write_features(bundle.files, after)
    return found


def publish_revision(work: JobContext, measure: Measure) -> dict[str, Any]:
    """Measure a server's SAE as a job; publishes a revision with the same SAE, served at once."""
    return asyncio.run(_measure_and_publish(work, measure))


def with_progress(texts: Sequence[list[int]], on_progress: OnProgress, *, batch: int = 16) -> Iterable[tuple[Any, Any]]:
    """Batches of texts, with progress reports."""
    for n, some in enumerate(padded_batches(texts, batch=batch, longest=LONGEST, pad=0), 1):
        yield some
        on_progress(min(n * batch, len(texts)), len(texts))


def revision_of_job(revisions: Revisions, job: str) -> str | None:
    """Return the revision that a job published before it was killed; None if it published none."""
    return next((n for n in reversed(revisions.names()) if revisions.manifest(n).report.get("job") == job), None)


async def publish_features(
    revisions: Revisions, store: Store, parent: Bundle, features: Sequence[Feature], report: Mapping[str, Any]
) -> str:
    """Publish a revision with the parent's SAE and new measurements, make it the served one, and return its name."""
    manifest = revisions.publish(
        parent,
        parent.sae,
        features,
        figures=parent.info.metrics,
        report=report,
        moments=revisions.moments(parent.info.revision),
    )
    await store.set_setting(revision_setting(revisions.info.name), manifest.revision)
    return manifest.revision


async def _measure_and_publish(work: JobContext, measure: Measure) -> dict[str, Any]:
    revisions, store = open_revisions(work.settings), open_store(work.settings, patient=True)
    try:
        if before := revision_of_job(revisions, work.id):
            return {"revision": before}
        parent = await open_served_revision(revisions, store)
        ground = await asyncio.to_thread(_load_inputs, work.settings, parent)
        on_progress = lambda n, of: work.report_progress(0.95 * n / max(1, of), {"done": n})  # noqa: E731
        found = await asyncio.to_thread(measure, ground, on_progress)
        revision = await publish_features(revisions, store, parent, found.features, {"job": work.id, **found.figures})
        work.log(f"published {revision}: {', '.join(f'{k} {v:g}' for k, v in found.figures.items())}")
        return {"revision": revision, **found.figures}
    finally:
        await store.close()


def _load_inputs(settings: Settings, bundle: Bundle) -> MeasurementInputs:
    bundle.sae.check_reads()
    model, tokenizer = load_model(settings.model or bundle.model_path, "cpu")
    texts = corpus_token_ids(settings, tokenizer, longest=LONGEST)
    if not texts:
        raise BadBundle("there is no text to measure on; name files with --corpus")
    return MeasurementInputs(model, tokenizer, bundle, texts)
