"""Drift watch: compares text with the served SAE, requests updates, and rolls back a revision that is worse.

Reads the corpus and users' consented texts, and logs its measurements.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Literal

import structlog
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from server.sae.corpus import corpus_token_ids, tokenize_texts
from server.sae.drift_log import DriftLog
from server.sae.model_loading import load_model
from server.sae.served_revision import open_revisions, open_served_revision, revision_setting
from server.settings import Settings
from server.store.base import Store
from server.store.encryption import TextEncryption
from server.store.factory import open_store
from server.store.models import LiveText
from steering.catalogue.bundle import Bundle
from steering.errors import SteeringError
from steering.update.drift import DriftCheck, alarms, measure_drift

log = structlog.get_logger(__name__)
SAMPLED = 300
"""Number of texts per check, of each kind."""
Did = Literal["update", "rolled back"]
"""Action that a check has taken."""


class DriftWatch:
    """Runs drift checks; their results are in files, so each can run in its own process."""

    def __init__(self, settings: Settings, submit: Callable[[str, dict[str, Any], str], object]) -> None:
        """`submit(type, config, key)` queues a job, once per key."""
        self.settings, self.submit = settings, submit
        self.revisions = open_revisions(settings)
        self.seen = DriftLog(settings.data_dir, self.revisions.info.name)
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerFast] | None = None

    def check(self) -> list[str]:
        """Run one check; returns the alarms after acting on them."""
        return asyncio.run(self._check_now())

    async def _check_now(self) -> list[str]:
        store = open_store(self.settings, patient=True)
        try:
            bundle = await open_served_revision(self.revisions, store)
            if not bundle.sae.learns:
                return []  # an update could not change it
            live = TextEncryption.from_settings(self.settings).opened(await store.live_texts())
            if not live and bundle.info.revision == self.revisions.info.revision:
                return []  # no texts and no new revision: nothing can have drifted
            now, found = self._measure(bundle, live), []
            for kind, seen in now.items():
                baseline = self._alarms_against_baseline(bundle.info.revision, kind, seen)
                found += [f"{kind}: {alarm}" for alarm in baseline]
            did = (
                "rolled back"
                if await self._roll_back_if_worse(bundle, live, store)
                else self._submit_update_if_due(bundle, found, live)
            )
            self._log_check(bundle.info.revision, now, found, did)
        finally:
            await store.close()
        return [*found, did] if did == "rolled back" else found

    def _submit_update_if_due(self, bundle: Bundle, found: list[str], live: list[LiveText]) -> Did | None:
        """Submit an update if there are alarms, or if one is due."""
        if found:
            self.submit("sae_update", {}, f"drift:{bundle.info.revision}:{_day()}")
            return "update"
        if (
            live
            and self.settings.update_hours
            and time.time() - self._last_update_time() > 3600 * self.settings.update_hours
        ):
            self.submit("sae_update", {}, f"schedule:{bundle.info.revision}:{int(time.time())}")
            return "update"
        return None

    def _last_update_time(self) -> float:
        """Time of the last check that submitted an update, or of the first check."""
        rows = self.seen.rows()
        return max((r["at"] for r in rows if r["did"] == "update"), default=rows[0]["at"] if rows else time.time())

    def _measure(self, bundle: Bundle, live: list[LiveText]) -> dict[str, DriftCheck]:
        model, tokenizer = self._model(bundle)
        kinds = {
            "corpus": corpus_token_ids(self.settings, tokenizer)[:SAMPLED],
            "live": [
                ids for t in live[-SAMPLED:] for ids in tokenize_texts(tokenizer, [json.loads(t.messages)], longest=512)
            ],
        }
        found = {}
        for kind, texts in kinds.items():
            try:
                found[kind] = measure_drift(model, bundle.sae, bundle.info.hook, texts, skip=tokenizer.all_special_ids)
            except SteeringError:
                pass  # too little text for a measurement
        return found

    def _alarms_against_baseline(self, revision: str, kind: str, seen: DriftCheck) -> list[str]:
        """Alarms against this revision's baseline; live text is first compared with the corpus."""
        held = self.seen.first(revision, kind)
        if held is None:
            self.seen.keep_first(revision, kind, {**seen.figures(), "firing": seen.firing.tolist()})
            held = None if kind == "corpus" else self.seen.first(revision, "corpus")
        if held is None:
            return []
        return alarms(DriftCheck(**{**held, "firing": torch.tensor(held["firing"])}), seen)

    async def _roll_back_if_worse(self, bundle: Bundle, live: list[LiveText], store: Store) -> bool:
        """Roll back to the parent if it explains today's live text better than the served revision."""
        parent = self.revisions.manifest(bundle.info.revision).parent
        if parent is None:
            return False
        before = self._measure(self.revisions.open(parent), live).get("live")
        now = self._measure(bundle, live).get("live")
        if before is None or now is None or now.explained_variance >= before.explained_variance - 0.01:
            return False
        await store.set_setting(revision_setting(bundle.info.name), parent)
        log.error(
            "rolled back",
            was=bundle.info.revision,
            now=parent,
            live=now.explained_variance,
            parent=before.explained_variance,
        )
        return True

    def _model(self, bundle: Bundle) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        self._loaded = self._loaded or load_model(self.settings.model or bundle.model_path, "cpu")
        return self._loaded

    def _log_check(self, revision: str, looks: dict[str, DriftCheck], found: list[str], did: Did | None) -> None:
        row = {"at": round(time.time(), 3), "revision": revision, "alarms": found, "did": did}
        self.seen.append(row | {kind: seen.figures() for kind, seen in looks.items()})


def _day() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())
