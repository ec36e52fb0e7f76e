"""Served revision: the store's setting that names the SAE revision to serve."""

import asyncio

import structlog

from server.settings import Settings
from server.store.base import Store
from steering.catalogue.bundle import Bundle, read_info
from steering.catalogue.revisions import Revisions
from steering.errors import BadBundle

log = structlog.get_logger(__name__)


def revision_setting(bundle: str) -> str:
    """Name of the setting that holds a bundle's revision to serve."""
    return f"revision:{bundle}"


def open_revisions(settings: Settings) -> Revisions:
    """Revisions of the configured bundle, embedded and published. Raises BadBundle."""
    return Revisions(settings.bundle, settings.data_dir / "revisions" / read_info(settings.bundle).name)


async def open_served_revision(revisions: Revisions, store: Store) -> Bundle:
    """Open the revision that the store names, or its nearest ancestor that opens.

    Raises BadBundle if even the embedded one fails.
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
