"""`GET /v1/limits`: what this server is, what it allows, and what is switched on. Knows settings and bounds; changes nothing."""

from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.openapi import wire
from server.jobs.tasks import sweep
from server.safety.policy import MAX_FACTOR
from server.schemas.comparison import VARIANTS
from server.serving.served_model import Tiller
from server.store.base import trouble
from server.user_data import feedback, vectors
from server.version import VERSION
from steering.spec import Mode, Scope, Unit

router = APIRouter(prefix="/v1")
MODES, UNITS, SCOPES = (list(kind.__args__) for kind in (Mode, Unit, Scope))


@router.get("/limits", openapi_extra=wire(schemas.service.Limits))
async def get_limits(request: Request) -> dict[str, Any]:
    """What a page of settings shows."""
    tiller: Tiller = request.app.state.tiller
    running, waiting = tiller.engine.load_now
    settings = tiller.settings
    return {
        "object": "limits",
        "server": {
            "version": VERSION,
            "engine": tiller.engine.name,
            "device": str(tiller.engine.device),
            "store": tiller.store.name,
            "store_error": await trouble(tiller.store),
        },
        "model": {
            "id": tiller.model,
            "context": tiller.engine.max_model_len,
            "vocabulary": tiller.engine.vocab_size,
            "width": tiller.engine.width,
        },
        "sae": {
            "revision": tiller.bundle.info.revision,
            "hook": tiller.bundle.info.hook,
            "features": tiller.bundle.sae.d_sae,
            "swap_error": request.app.state.swap.error,
        },
        "steering": {
            "max_features": settings.max_features,
            "max_push": settings.max_push,
            "max_factor": MAX_FACTOR,
            "modes": MODES if tiller.bundle.sae.reads else ["add"],
            "units": UNITS,
            "scopes": SCOPES,
            "variants": VARIANTS,
        },
        "requests": {
            "max_tokens": tiller.engine.max_model_len,
            "max_body": settings.max_body,
            "max_import": settings.max_import,
            "live": settings.live,
            "queue": settings.queue,
            "running": running,
            "waiting": waiting,
        },
        "sweep": {"strengths": sweep.STRENGTHS, "prompts": sweep.PROMPTS, "max_tokens": sweep.TOKENS},
        "users": {"vectors": vectors.MOST, "votes": feedback.MOST},
        "training": {
            "on": settings.trainer,
            "learns": tiller.bundle.sae.learns,
            "look_seconds": settings.look_seconds,
            "update_hours": settings.update_hours,
            "live_texts": settings.live_texts,
            "live_days": settings.live_days,
        },
        "labels": {"on": settings.label_url is not None, "model": settings.label_model},
        "meaning": {"on": settings.meaning_model is not None, "model": settings.meaning_model},
        "shares": {"on": settings.shares, "max_bytes": settings.share_bytes, "days": settings.share_days},
        "keys": {"on": await request.app.state.keyring.on(tiller.store)},
    }
