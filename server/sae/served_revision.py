"""Which revision of the SAE is served: read from and written to the store."""

import asyncio

import structlog

from server.settings import Settings
from server.store.base import Store
from steering.catalogue.bundle import Bundle, read_info
from steering.catalogue.revisions import Revisions
from steering.errors import BadBundle

log = structlog.get_logger(__name__)


def revision_setting(bundle: str) -> str:
    """The setting that names the revision of a bundle which is to be served."""
    return f"revision:{bundle}"


def open_revisions(settings: Settings) -> Revisions:
    """The revisions of the bundle that the settings name, shipped and published. Raises BadBundle."""
    return Revisions(settings.bundle, settings.data_dir / "revisions" / read_info(settings.bundle).name)


async def open_served_revision(revisions: Revisions, store: Store) -> Bundle:
    """Open the revision that the store names, or the nearest ancestor that can be opened.

    Raises BadBundle if not even the shipped one can be.
    """
    shipped = revisions.info.revision
    revision = await store.setting(revision_setting(revisions.info.name)) or shipped
    while True:
        try:
            return await asyncio.to_thread(revisions.open, revision)
        except BadBundle as error:
            if revision == shipped:
                raise
            refused, revision = revision, _parent(revisions, revision) or shipped
            log.error("revision refused", revision=refused, instead=revision, why=str(error))


def _parent(revisions: Revisions, revision: str) -> str | None:
    try:
        return revisions.manifest(revision).parent
    except BadBundle:
        return None
