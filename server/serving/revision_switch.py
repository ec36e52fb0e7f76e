"""Revision switch: changes the served SAE revision without a restart.

The store names the wanted revision and the users' feature labels; the server polls it every second.
A new revision is opened beside the current one and added to the engine, then the application gets a
new `ServedModel`: running replies finish on the old one, new requests use the new one. A revision
that fails to open is never served.
"""

import asyncio
import time
from dataclasses import replace
from typing import Any

import structlog

from server.sae.served_revision import revision_setting
from server.serving.served_model import ServedModel
from server.store.base import Conflict, Unavailable, edits_setting
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.errors import BadBundle

log = structlog.get_logger(__name__)
POLL_SECONDS = 1.0
"""Seconds between polls of the store."""


async def with_user_labels(served: ServedModel, bundle: Bundle) -> ServedModel:
    """The same model with another bundle, under the users' labels."""
    edits = await served.store.feature_edits(bundle.info.name)
    return replace(served, catalogue=Catalogue([bundle.with_edits(edits)]))


class RevisionSwitch:
    """Keeps `state.served_model` at the revision that the store names."""

    def __init__(self, state: Any) -> None:  # noqa: ANN401 - starlette's State
        self.state = state
        self.error: str | None = None
        """Why the wanted revision is not served, if so."""
        self._refused: str | None = None
        self._said: str | None = None
        """Version of the label edits when they were last read."""
        self._lost = False
        self._one_at_a_time = asyncio.Lock()

    @property
    def _served(self) -> ServedModel:
        return self.state.served_model

    async def watch(self) -> None:
        """Poll the store forever."""
        pinned = False
        while True:
            try:
                if not pinned:
                    await self._pin_presets()
                pinned = True
                await self.sync()
                if self._lost:
                    log.warning("the store is available again")
                self._lost = False
            except Unavailable as error:
                if not self._lost:  # /health reports it while it lasts
                    log.error("the store is unavailable", why=str(error))
                self._lost = True
            except Exception as error:
                self.error = f"cannot read the wanted revision: {error}"
                log.exception("the check for another revision failed")
            await self._served.store.changed(POLL_SECONDS)

    async def sync(self) -> None:
        """Serve the revision that the store names, unless it is served or has failed before, with
        the current labels."""
        async with self._one_at_a_time:
            served = self._served
            edits_version = await served.store.setting(edits_setting(served.model))
            if edits_version != self._said:  # by this server or another
                self.state.served_model = served = await with_user_labels(served, served.bundle)
                self._said = edits_version
            wanted = await served.store.setting(revision_setting(served.model)) or served.revisions.info.revision
            if wanted == served.bundle.info.revision:
                self.error, self._refused = None, None
            elif wanted != self._refused:
                try:
                    await self._serve(wanted)
                except BadBundle:
                    pass  # it is logged, and /health reports it

    async def activate(self, revision: str) -> str:
        """Serve a revision and write it to the store; return the previous one. Raises BadBundle and
        then changes nothing."""
        async with self._one_at_a_time:
            served = self._served
            before = served.bundle.info.revision
            opened = await self._open(revision) if revision != before else None
            await served.store.set_setting(revision_setting(served.model), revision)
            await self._take(opened)
        return before

    async def relabel(self) -> None:
        """Serve the same revision with the current labels."""
        async with self._one_at_a_time:
            self.state.served_model = await with_user_labels(self._served, self._served.bundle)

    async def _serve(self, revision: str) -> None:
        # Computed before opening: files that arrive in between count as a change, and trigger a
        # retry.
        were_there = revision in self._served.revisions.names()
        try:
            await self._take(await self._open(revision))
        except BadBundle as error:
            before, self.error = self.error, f"revision {revision!r} is not served: {error}"
            if were_there:  # otherwise its files may still be arriving
                self._refused = revision
            if before != self.error:
                served = self._served.bundle.info.revision
                log.error("revision refused", revision=revision, serving=served, why=str(error))
            raise

    async def _open(self, revision: str) -> Bundle:
        served, started = self._served, time.monotonic()

        def read() -> Bundle:
            found = served.revisions.open(revision, gently=True)
            found.check_fits(served.engine.width)
            return found.to(served.engine.device)

        found = await asyncio.to_thread(read)
        await served.engine.add_revision(revision, {found.info.hook: found.files})
        log.info("revision opened", revision=revision, seconds=round(time.monotonic() - started, 3))
        return found

    async def _take(self, opened: Bundle | None) -> None:
        self.error, self._refused = None, None
        if opened:
            self.state.served_model = await with_user_labels(self._served, opened)

    async def _pin_presets(self) -> None:
        """Add feature snapshots to presets saved before snapshots existed, while their features exist."""
        served = self._served
        for preset in await served.store.presets():
            pinned = served.bundle.pinned(preset)
            if preset.model == served.model and pinned != preset:
                try:
                    await served.store.save_preset(pinned, based_on=preset.version)
                except Conflict:
                    pass  # a concurrent change has added them
