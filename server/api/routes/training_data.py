"""`/v1/training…`: consent to training on conversations, its withdrawal, and drift measurements.

Consent is off by default. The measurements are numbers only and contain no user text.
"""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from server.api.body import JsonBody
from server.api.dependencies import current_caller, current_model, job_queue
from server.api.openapi import errors
from server.sae.drift_log import MOST, DriftLog
from server.schemas.saes import Consent, ConsentState, Drift, DriftCheck, TextsDeleted
from server.serving.served_model import ServedModel
from server.store.base import Unavailable
from server.store.encryption import pseudonym

router = APIRouter()


@router.get("/v1/training/consent", tags=["Users"], responses=errors(400))
async def get_consent(request: Request, user: str = "") -> ConsentState:
    """A user's consent, and the number of texts kept."""
    return await _consent_state(current_model(request), current_caller(request).require_subject(user), user)


@router.put("/v1/training/consent", tags=["Users"], responses=errors(400, 413))
async def set_consent(request: Request, body: Annotated[Consent, Depends(JsonBody(Consent))]) -> ConsentState:
    """Give or withdraw consent; withdrawal deletes all texts of the user at once."""
    served = current_model(request)
    person = current_caller(request).require_subject(body.user)
    await served.store.set_consent(person, body.consent)
    if not body.consent:
        await _cancel_jobs_with_texts(request, person)
    return await _consent_state(served, person, body.user)


@router.delete("/v1/training/texts", tags=["Users"], responses=errors(400))
async def delete_texts(request: Request, user: str = "") -> TextsDeleted:
    """Delete a user's texts; the consent stays."""
    served = current_model(request)
    person = current_caller(request).require_subject(user)
    deleted = await served.store.forget_texts(person)
    await _cancel_jobs_with_texts(request, person)
    return TextsDeleted(user=user or None, deleted=deleted)


@router.get("/v1/training/drift", tags=["SAE"], responses=errors(400))
async def get_drift(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 500,
    cursor: Annotated[float | None, Query(ge=0, allow_inf_nan=False)] = None,
) -> Drift:
    """Drift measurements of the trainer, oldest first; `cursor` returns the page before."""
    served = current_model(request)
    log, revision = DriftLog(served.settings.data_dir, served.model), served.bundle.info.revision

    def read() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return log.rows(before=cursor), {kind: _drift_figures(log.first(revision, kind)) for kind in ("corpus", "live")}

    rows, baseline = await asyncio.to_thread(read)
    page, more = rows[-limit:], len(rows) > limit
    empty = {"did": None, "corpus": None, "live": None}
    return Drift(
        object="list",
        data=[DriftCheck.model_validate(empty | row) for row in page],
        has_more=more,
        next_cursor=str(page[0]["at"]) if more else None,
        revision=revision,
        baseline=baseline,
        look_seconds=served.settings.look_seconds,
        update_hours=served.settings.update_hours,
        given=await _count_consented(served),
    )


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


async def _consent_state(served: ServedModel, person: str, user: str | None) -> ConsentState:
    texts = await served.store.live_texts(person)
    return ConsentState(
        user=user or None,
        consent=await served.store.consent(person),
        texts=len(texts),
        most=served.settings.live_texts,
        days=served.settings.live_days,
    )
