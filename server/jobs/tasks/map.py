"""Job type `map`: computes the feature map, of a served revision or of a bundle."""

import asyncio
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from server.features.map_files import map_folder
from server.jobs.worker import JobContext
from server.sae.served_revision import open_revisions, open_served_revision
from server.settings import Settings
from server.store.factory import open_store
from steering.catalogue.bundle import Bundle
from steering.interpret.feature_map import FeatureMap, Method, draw_map


class MapConfig(BaseModel):
    """How to compute the map."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["umap", "pca"] | None = None
    """Default: UMAP if it is installed."""


def map_bundle(settings: Settings, method: Method | None) -> FeatureMap:
    """Compute the map of a bundle in its original form, and write it beside its SAE."""
    bundle = Bundle.open(settings.bundle)
    drawn = draw_map(bundle, method)
    drawn.save(bundle.files)
    return drawn


def run(work: JobContext) -> dict[str, Any]:
    """Run a `map` job: writes the map of the served revision."""
    return asyncio.run(_map(work, MapConfig.model_validate(dict(work.config))))


async def _map(work: JobContext, order: MapConfig) -> dict[str, Any]:
    store = open_store(work.settings, patient=True)
    try:
        bundle = await open_served_revision(open_revisions(work.settings), store)
        named = bundle.with_edits(await store.feature_edits(bundle.info.name))
    finally:
        await store.close()
    drawn = await asyncio.to_thread(draw_map, named, order.method)
    drawn.save(map_folder(work.settings, bundle))
    work.log(f"drew {len(drawn.points)} features by {drawn.about.method} in {len(drawn.about.clusters)} clusters")
    return {"revision": bundle.info.revision, "method": drawn.about.method, "clusters": len(drawn.about.clusters)}


JOB = (MapConfig, run)
"""Schema and function of the job type `map`."""
