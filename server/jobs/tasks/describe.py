"""Job type `describe`: describes every feature, in a server's revision or in a bundle."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from server.jobs.tasks.publish import Measurement, MeasurementInputs, OnProgress, publish_revision, with_progress
from server.jobs.worker import JobContext
from steering.catalogue.feature import Feature
from steering.interpret.describe import describe, with_measurements


class DescribeConfig(BaseModel):
    """What to describe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    texts: int | None = Field(default=None, ge=1)
    """Maximum number of texts of the corpus; default: all."""


def describe_features(ground: MeasurementInputs, order: DescribeConfig, on_progress: OnProgress) -> Measurement:
    """All features described again, except labels that do not come from examples."""
    bundle = ground.bundle
    batches = with_progress(ground.texts[: order.texts], on_progress)
    rows = describe(
        ground.model,
        ground.tokenizer,
        bundle.sae,
        bundle.info.hook,
        batches,
        bundle=bundle.info.name,
        typical_norm=bundle.info.typical_norm,
    )
    found = with_measurements(bundle, rows)
    return Measurement(found, figures_of(found))


def figures_of(features: Sequence[Feature]) -> dict[str, float]:
    """Number of features of each kind."""
    kinds = {kind: sum(kind in f.kind for f in features) for kind in ("dead", "dense", "input-only")}
    return {"described": len(features), **kinds}


def run(work: JobContext) -> dict[str, Any]:
    """Run a `describe` job: publishes a revision with the same SAE and new descriptions."""
    order = DescribeConfig.model_validate(dict(work.config))
    return publish_revision(work, lambda ground, told: describe_features(ground, order, told))


JOB = (DescribeConfig, run)
"""Schema and function of the job type `describe`."""
