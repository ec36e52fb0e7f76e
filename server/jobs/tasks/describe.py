"""Describing every feature: as a job of a server, and into a bundle. Knows what is asked for; looking is the core's."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from server.jobs.tasks.publish import Measurement, MeasurementInputs, OnProgress, publish_revision, with_progress
from server.jobs.worker import JobContext
from steering.catalogue.feature import Feature
from steering.interpret.describe import describe, refreshed


class DescribeConfig(BaseModel):
    """What is to be looked at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    texts: int | None = Field(default=None, ge=1)
    """At most so many of the corpus; all if none is named."""


def describe_features(ground: MeasurementInputs, order: DescribeConfig, told: OnProgress) -> Measurement:
    """All features anew, but for labels that are not drawn from examples."""
    bundle = ground.bundle
    batches = with_progress(ground.texts[: order.texts], told)
    rows = describe(ground.model, ground.tokenizer, bundle.sae, bundle.info.hook, batches, bundle=bundle.info.name)
    found = refreshed(bundle, rows)
    return Measurement(found, figures_of(found))


def figures_of(features: Sequence[Feature]) -> dict[str, float]:
    """How many there are of each kind."""
    kinds = {kind: sum(kind in f.kind for f in features) for kind in ("dead", "dense", "input-only")}
    return {"described": len(features), **kinds}


def run(work: JobContext) -> dict[str, Any]:
    """Do a job of the type `describe`: leaves a revision with the same SAE and new descriptions."""
    order = DescribeConfig.model_validate(dict(work.config))
    return publish_revision(work, lambda ground, told: describe_features(ground, order, told))


JOB = (DescribeConfig, run)
"""The type `describe`: what it may be asked for, and what does it."""
