"""`/v1/models`: the served model and one id for each preset."""

import time
from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import caller_of
from server.api.openapi import wire
from server.serving.served_model import Tiller
from steering.spec import Preset

router = APIRouter(prefix="/v1")
STARTED = int(time.time())


@router.get("/models", openapi_extra=wire(schemas.completions.ModelList))
async def list_models(request: Request) -> dict[str, Any]:
    """The model, and one id for each preset."""
    tiller: Tiller = request.app.state.tiller
    return {
        "object": "list",
        "data": [_model(tiller, None), *(_model(tiller, p) for p in await tiller.presets(caller_of(request)))],
    }


@router.get("/models/{model_id:path}", openapi_extra=wire(schemas.completions.ModelCard))
async def get_model(request: Request, model_id: str) -> dict[str, Any]:
    """One model id, `base` or `base@preset`."""
    tiller: Tiller = request.app.state.tiller
    return _model(tiller, (await tiller.choose(model_id, None, caller=caller_of(request))).preset)


def _model(tiller: Tiller, preset: Preset | None) -> dict[str, Any]:
    about = {"object": "model", "created": STARTED, "owned_by": "local", "max_model_len": tiller.engine.max_model_len}
    if preset:
        return {
            "id": f"{tiller.model}@{preset.id}",
            **about,
            "parent": tiller.model,
            "name": preset.name,
            "description": preset.description,
        }
    steering = {
        "saes": [tiller.bundle.info.revision],
        "hook": tiller.bundle.info.hook,
        "modes": ["add", "clamp", "scale", "ablate"] if tiller.bundle.sae.reads else ["add"],
        "scopes": ["assistant", "all", "generated"],
        "max_features": tiller.settings.max_features,
    }
    return {"id": tiller.model, **about, "steering": steering}
