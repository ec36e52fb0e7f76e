"""`GET /v1/limits`: the server's limits, and which features are enabled."""

from fastapi import APIRouter, Request

from server.api.dependencies import current_model
from server.jobs.tasks import sweep
from server.safety.policy import MAX_FACTOR
from server.schemas.comparison import VARIANTS
from server.schemas.service import Limits
from server.store.base import store_error
from server.user_data import feedback, vectors
from server.version import VERSION
from steering.spec import Mode, Scope, Unit

router = APIRouter(prefix="/v1", tags=["Server"])
MODES, UNITS, SCOPES = (list(kind.__args__) for kind in (Mode, Unit, Scope))


@router.get("/limits")
async def get_limits(request: Request) -> Limits:
    """Limits and settings, as a settings page shows them."""
    served = current_model(request)
    running, waiting = served.engine.occupancy
    settings = served.settings
    return Limits(
        object="limits",
        server={
            "version": VERSION,
            "engine": served.engine.name,
            "device": str(served.engine.device),
            "store": served.store.name,
            "store_error": await store_error(served.store),
        },
        model={
            "id": served.model,
            "context": served.engine.max_model_len,
            "vocabulary": served.engine.vocab_size,
            "width": served.engine.width,
        },
        sae={
            "revision": served.bundle.info.revision,
            "hook": served.bundle.info.hook,
            "features": served.bundle.sae.d_sae,
            "swap_error": request.app.state.revision_switch.error,
        },
        steering={
            "max_features": settings.max_features,
            "max_push": settings.max_push,
            "max_factor": MAX_FACTOR,
            "modes": MODES if served.bundle.sae.reads else ["add"],
            "units": UNITS,
            "scopes": SCOPES,
            "variants": VARIANTS,
        },
        requests={
            "max_tokens": served.engine.max_model_len,
            "max_body": settings.max_body,
            "max_import": settings.max_import,
            "live": settings.live,
            "queue": settings.queue,
            "running": running,
            "waiting": waiting,
        },
        sweep={"strengths": sweep.STRENGTHS, "prompts": sweep.PROMPTS, "max_tokens": sweep.TOKENS},
        users={"vectors": vectors.MAX_VECTORS, "votes": feedback.MAX_VOTES},
        training={
            "on": settings.trainer,
            "learns": served.bundle.sae.learns,
            "look_seconds": settings.look_seconds,
            "update_hours": settings.update_hours,
            "live_texts": settings.live_texts,
            "live_days": settings.live_days,
        },
        labels={"on": settings.label_url is not None, "model": settings.label_model},
        meaning={"on": settings.meaning_model is not None, "model": settings.meaning_model},
        shares={"on": settings.shares, "max_bytes": settings.share_bytes, "days": settings.share_days},
        keys={"on": await request.app.state.keyring.requires_key(served.store)},
    )
