"""The map of features: as a job of a server, into a bundle, and as it is answered. Knows where it lies; drawing is the core's."""

import asyncio
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from server.features.map_files import place_of
from server.jobs.worker import Work
from server.sae.served_revision import open_wanted, revisions_of
from server.settings import Settings
from server.store.factory import open_store
from steering.catalogue.bundle import Bundle
from steering.interpret.feature_map import Map, Method, draw


class MapOrder(BaseModel):
    """How it is to be drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["umap", "pca"] | None = None
    """UMAP if it is installed, if none is named."""


def into_bundle(settings: Settings, method: Method | None) -> Map:
    """Draw the map of a bundle as it was shipped, and write it beside its SAE."""
    bundle = Bundle.open(settings.bundle)
    drawn = draw(bundle, method)
    drawn.save(bundle.files)
    return drawn


def map_job(work: Work) -> dict[str, Any]:
    """Do a job of the type `map`: leaves the map of the revision that is served."""
    return asyncio.run(_map(work, MapOrder.model_validate(dict(work.config))))


async def _map(work: Work, order: MapOrder) -> dict[str, Any]:
    store = open_store(work.settings, patient=True)
    try:
        bundle = await open_wanted(revisions_of(work.settings), store)
        named = bundle.with_edits(await store.feature_edits(bundle.info.name))
    finally:
        await store.close()
    drawn = await asyncio.to_thread(draw, named, order.method)
    drawn.save(place_of(work.settings, bundle))
    work.log(f"drew {len(drawn.points)} features by {drawn.about.method} in {len(drawn.about.clusters)} clusters")
    return {"revision": bundle.info.revision, "method": drawn.about.method, "clusters": len(drawn.about.clusters)}


JOB = (MapOrder, map_job)
"""The type `map`: what it may be asked for, and what does it."""
