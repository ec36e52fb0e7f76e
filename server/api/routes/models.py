"""`/v1/models`: the served model and one id per preset."""

import time
from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import current_caller, current_model
from server.api.openapi import wire
from server.serving.served_model import ServedModel
from steering.spec import Preset

router = APIRouter(prefix="/v1")
STARTED = int(time.time())


@router.get("/models", openapi_extra=wire(schemas.completions.ModelList))
async def list_models(request: Request) -> dict[str, Any]:
    """The served model, and one id per preset."""
    served = current_model(request)
    return {
        "object": "list",
        "data": [
            _model_card(served, None),
            *(_model_card(served, p) for p in await served.presets(current_caller(request))),
        ],
    }


@router.get("/models/{model_id:path}", openapi_extra=wire(schemas.completions.ModelCard))
async def get_model(request: Request, model_id: str) -> dict[str, Any]:
    """One model id, `base` or `base@preset`."""
    served = current_model(request)
    return _model_card(served, (await served.choose(model_id, None, caller=current_caller(request))).preset)


def _model_card(served: ServedModel, preset: Preset | None) -> dict[str, Any]:
    about = {"object": "model", "created": STARTED, "owned_by": "local", "max_model_len": served.engine.max_model_len}
    if preset:
        return {
            "id": f"{served.model}@{preset.id}",
            **about,
            "parent": served.model,
            "name": preset.name,
            "description": preset.description,
        }
    steering = {
        "saes": [served.bundle.info.revision],
        "hook": served.bundle.info.hook,
        "modes": ["add", "clamp", "scale", "ablate"] if served.bundle.sae.reads else ["add"],
        "scopes": ["assistant", "all", "generated"],
        "max_features": served.settings.max_features,
    }
    return {"id": served.model, **about, "steering": steering}
