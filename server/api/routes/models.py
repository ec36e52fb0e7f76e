"""`/v1/models`: the served model and one id per preset."""

import time

from fastapi import APIRouter, Request

from server.api.dependencies import current_caller, current_model
from server.api.openapi import errors
from server.schemas.completions import ModelCard, ModelList, SteeringAbilities
from server.serving.served_model import ServedModel
from steering.model.chat_template import default_system_prompt
from steering.spec import Preset

router = APIRouter(prefix="/v1", tags=["Models"])
STARTED = int(time.time())


@router.get("/models", response_model_exclude_unset=True)
async def list_models(request: Request) -> ModelList:
    """The served model, and one id per preset."""
    served = current_model(request)
    presets = await served.presets(current_caller(request))
    return ModelList(object="list", data=[_model_card(served, p) for p in (None, *presets)])


@router.get("/models/{model_id:path}", responses=errors(400, 404), response_model_exclude_unset=True)
async def get_model(request: Request, model_id: str) -> ModelCard:
    """One model id, `base` or `base@preset`."""
    served = current_model(request)
    return _model_card(served, (await served.choose(model_id, None, caller=current_caller(request))).preset)


def _model_card(served: ServedModel, preset: Preset | None) -> ModelCard:
    card = ModelCard(
        id=f"{served.model}@{preset.id}" if preset else served.model,
        object="model",
        created=STARTED,
        owned_by="local",
        max_model_len=served.engine.max_model_len,
    )
    if preset:
        persona = {"parent": served.model, "name": preset.name, "description": preset.description}
        return card.model_copy(update=persona)
    own = default_system_prompt(served.engine.tokenizer)
    return card.model_copy(update={"steering": _abilities(served), **({"default_system_prompt": own} if own else {})})


def _abilities(served: ServedModel) -> SteeringAbilities:
    return SteeringAbilities(
        saes=[served.bundle.info.revision],
        hook=served.bundle.info.hook,
        modes=["add", "clamp", "scale", "ablate"] if served.bundle.sae.reads else ["add"],
        scopes=["assistant", "all", "generated", "positions"],
        scope=served.bundle.info.scope,
        skip_special=served.bundle.info.skip_special,
        max_features=served.settings.max_features,
    )
