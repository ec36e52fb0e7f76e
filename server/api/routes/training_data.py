"""`/v1/training…`: consent to training on conversations, its withdrawal, and drift measurements.

Consent is off by default. The measurements are numbers only and contain no user text.
"""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from server import schemas
from server.api.dependencies import current_caller, current_model, job_queue
from server.api.openapi import wire
from server.sae.drift_log import MOST, DriftLog
from server.schemas.body import parse_body
from server.serving.served_model import ServedModel
from server.store.base import Unavailable
from server.store.encryption import pseudonym

router = APIRouter()


class Consent(BaseModel):
    """A user's consent."""

    model_config = ConfigDict(extra="forbid")

    user: str | None = Field(default=None, min_length=1, max_length=256)
    """The `user` that the user's requests carry; default: the owner of the key."""
    consent: bool


@router.get("/v1/training/consent", openapi_extra=wire(schemas.saes.ConsentState))
async def get_consent(request: Request, user: str = "") -> dict[str, Any]:
    """A user's consent, and the number of texts kept."""
    return await _consent_state(current_model(request), current_caller(request).require_subject(user), user)


@router.put("/v1/training/consent", openapi_extra=wire(schemas.saes.ConsentState, takes=Consent))
async def set_consent(request: Request) -> dict[str, Any]:
    """Give or withdraw consent; withdrawal deletes all texts of the user at once."""
    said, served = parse_body(Consent, await request.body()), current_model(request)
    person = current_caller(request).require_subject(said.user)
    await served.store.set_consent(person, said.consent)
    if not said.consent:
        await _cancel_jobs_with_texts(request, person)
    return await _consent_state(served, person, said.user)


@router.delete("/v1/training/texts", openapi_extra=wire(schemas.saes.TextsDeleted))
async def delete_texts(request: Request, user: str = "") -> dict[str, Any]:
    """Delete a user's texts; the consent stays."""
    served = current_model(request)
    person = current_caller(request).require_subject(user)
    deleted = await served.store.forget_texts(person)
    await _cancel_jobs_with_texts(request, person)
    return {"user": user or None, "deleted": deleted}


@router.get("/v1/training/drift", openapi_extra=wire(schemas.saes.Drift))
async def get_drift(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 500,
    cursor: Annotated[float | None, Query(ge=0, allow_inf_nan=False)] = None,
) -> dict[str, Any]:
    """Drift measurements of the trainer, oldest first; `cursor` returns the page before."""
    served = current_model(request)
    log, revision = DriftLog(served.settings.data_dir, served.model), served.bundle.info.revision

    def read() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return log.rows(before=cursor), {kind: _drift_figures(log.first(revision, kind)) for kind in ("corpus", "live")}

    rows, baseline = await asyncio.to_thread(read)
    page, more = rows[-limit:], len(rows) > limit
    empty = {"did": None, "corpus": None, "live": None}
    return {
        "object": "list",
        "data": [empty | row for row in page],
        "has_more": more,
        "next_cursor": str(page[0]["at"]) if more else None,
        "revision": revision,
        "baseline": baseline,
        "look_seconds": served.settings.look_seconds,
        "update_hours": served.settings.update_hours,
        "given": await _count_consented(served),
    }


async def _count_consented(served: ServedModel) -> int | None:
    try:
        return await served.store.consented_texts()
    except Unavailable:  # the measurements are on disk and available without the store
        return None


def _drift_figures(look: dict[str, Any] | None) -> dict[str, Any] | None:
    return look and {k: v for k, v in look.items() if k != "firing"}


async def _cancel_jobs_with_texts(request: Request, person: str) -> None:
    """Cancel jobs that train on the deleted texts."""
    await asyncio.to_thread(job_queue(request).erase_given, [pseudonym(person)], theirs=lambda _: False)


async def _consent_state(served: ServedModel, person: str, user: str | None) -> dict[str, Any]:
    texts = await served.store.live_texts(person)
    return {
        "user": user or None,
        "consent": await served.store.consent(person),
        "texts": len(texts),
        "most": served.settings.live_texts,
        "days": served.settings.live_days,
    }
