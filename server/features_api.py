"""Models, features and steering without text: what there is, and what a spec would do. Knows the catalogue, runs no model."""

import time
from typing import Any

from fastapi import APIRouter, Query, Request

from server.choice import Tiller
from server.errors import ApiError, bad_request
from server.protocol import ValidateRequest, parse
from steering.catalogue import Feature
from steering.errors import UnknownFeature
from steering.spec import Preset

router = APIRouter(prefix="/v1")
STARTED = int(time.time())


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """The model, and one id for each preset."""
    tiller: Tiller = request.app.state.tiller
    return {"object": "list", "data": [_model(tiller, None), *(_model(tiller, p) for p in await tiller.presets())]}


@router.get("/models/{model_id:path}")
async def model(request: Request, model_id: str) -> dict[str, Any]:
    """One model id, `base` or `base@preset`."""
    tiller: Tiller = request.app.state.tiller
    return _model(tiller, (await tiller.choose(model_id, None)).preset)


@router.get("/features")
async def features(
    request: Request,
    q: str = "",
    limit: int = Query(default=50, ge=1, le=500),
    cursor: str = "0",
) -> dict[str, Any]:
    """Search by words in label, tokens or id; page with `cursor`."""
    tiller: Tiller = request.app.state.tiller
    if not cursor.isdecimal() or len(cursor) > 9:
        raise bad_request(f"{cursor!r} is no cursor; pass the next_cursor of the page before", param="cursor")
    found, start = tiller.catalogue.search(q), int(cursor)
    more = len(found) > start + limit
    return {
        "object": "list",
        "data": [_feature(f) for f in found[start : start + limit]],
        "total": len(found),
        "has_more": more,
        "next_cursor": str(start + limit) if more else None,
    }


@router.get("/features/{feature_id:path}")
async def feature(request: Request, feature_id: str) -> dict[str, Any]:
    """All that is known of one feature."""
    tiller: Tiller = request.app.state.tiller
    if len(feature_id) > 256:
        raise ApiError(404, "no feature has an id of more than 256 characters", code="feature_not_found", param="id")
    try:
        bundle, found = tiller.catalogue.find(feature_id)
    except UnknownFeature as error:
        raise ApiError(404, str(error), code="feature_not_found", param="id") from error
    similar = [{"id": f.id, "label": f.label, "cosine": round(c, 4)} for f, c in bundle.neighbours(found.index)]
    return _feature(found) | {
        "examples": found.examples,
        "top_logits": found.top_logits,
        "layer": bundle.layer,
        "similar": similar,
    }


@router.post("/steering/validate")
async def validate(request: Request) -> dict[str, Any]:
    """What a steering object would do, without running the model."""
    body = parse(ValidateRequest, await request.body())
    tiller: Tiller = request.app.state.tiller
    choice = await tiller.choose(body.model, body.steering, user=body.user)
    echo = choice.echo()
    return {
        "valid": True,
        "normalized": choice.resolved.spec.model_dump(),
        "push_norm": choice.resolved.push_norm,
        **{k: echo[k] for k in ("applied", "load", "predicted", "warnings", "hash")},
        **({"cut": echo["cut"]} if "cut" in echo else {}),
    }


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


def _feature(f: Feature) -> dict[str, Any]:
    return f.model_dump(exclude={"examples", "top_logits"}) | {"object": "feature"}
