"""The map of features: as a job of a server, into a bundle, and as it is answered. Knows where it lies; drawing is the core's."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from server.jobs.queue import Work
from server.serving.revision_switch import open_wanted, revisions_of
from server.settings import Settings
from server.store.factory import open_store
from steering.catalogue.bundle import Bundle

if TYPE_CHECKING:
    from steering.interpret.feature_map import Map, Method


class MapOrder(BaseModel):
    """How it is to be drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["umap", "pca"] | None = None
    """UMAP if it is installed, if none is named."""


def place_of(settings: Settings, bundle: Bundle) -> Path:
    """Where a server keeps the map of a revision: beside its SAE; of the shipped one, which is only read, in its data."""
    live = settings.data_dir / "revisions" / bundle.info.name
    if bundle.files.is_relative_to(live):
        return bundle.files
    return settings.data_dir / "maps" / bundle.info.name / bundle.info.revision


def map_of(settings: Settings, bundle: Bundle) -> "Map":
    """The map of a revision: one that was made, else one that is drawn now."""
    from steering.errors import BadBundle
    from steering.interpret.feature_map import Map, draw

    for folder in dict.fromkeys((place_of(settings, bundle), bundle.files)):
        if Map.there(folder):
            try:
                return Map.read(folder, bundle.sae.d_sae)
            except BadBundle:
                continue  # a map is no reason to answer nothing: it is drawn again
    return draw(bundle, "pca")


def into_bundle(settings: Settings, method: "Method | None") -> "Map":
    """Draw the map of a bundle as it was shipped, and write it beside its SAE."""
    from steering.interpret.feature_map import draw

    bundle = Bundle.open(settings.bundle)
    drawn = draw(bundle, method)
    drawn.save(bundle.files)
    return drawn


def map_job(work: Work) -> dict[str, Any]:
    """Do a job of the type `map`: leaves the map of the revision that is served."""
    return asyncio.run(_map(work, MapOrder.model_validate(dict(work.config))))


async def _map(work: Work, order: MapOrder) -> dict[str, Any]:
    from steering.interpret.feature_map import draw

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
