"""`/v1/vectors`: directions from examples, each user's own. Knows the wire and the store; `understand.vectors` makes them."""

import time
from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import account_of, caller_of, noted
from server.api.openapi import wire
from server.errors import ApiError
from server.schemas.body import parse
from server.schemas.user_data import VectorRequest
from server.serving.served_model import Tiller
from server.store.base import Conflict
from server.store.encryption import alias
from server.user_data.vectors import MOST, find_direction, measure_dose
from steering.doses.vectors import vector_of
from steering.spec import Vector

router = APIRouter(prefix="/v1/vectors")


@router.post("", status_code=201, openapi_extra=wire(schemas.user_data.VectorMade, 404, 409, 429, takes=VectorRequest))
async def create_vector(request: Request) -> dict[str, Any]:
    """Make a vector of examples and measure its dose."""
    body = parse(VectorRequest, await request.body())
    tiller: Tiller = request.app.state.tiller
    await tiller.choose(body.model, None)
    person = caller_of(request).named(body.user)
    if not body.replace and await tiller.store.vector(person, tiller.model, body.name):
        raise _taken(f"there is a vector {body.name!r} already; choose another name, or set replace to true")
    found = await find_direction(tiller, body, account_of(request))
    bundle, sizes = tiller.bundle, (len(body.a), len(body.b))
    dose = await measure_dose(tiller, found)
    vector = vector_of(body.name, body.method, found, dose, bundle.sae, bundle.info, texts=sizes)
    vector = vector.model_copy(update={"created": int(time.time())})
    try:
        await tiller.store.save_vector(person, tiller.model, vector, replace=body.replace, most=MOST)
    except Conflict as error:
        raise _taken(f"{error}; choose another name and replace, or delete one") from error
    await noted(request, "vector made", vector=alias(vector.id), method=vector.method)
    return _told(vector)


@router.get("", openapi_extra=wire(schemas.user_data.VectorList))
async def list_vectors(request: Request, user: str = "") -> dict[str, Any]:
    """A user's own vectors."""
    tiller: Tiller = request.app.state.tiller
    held = await tiller.store.vectors(caller_of(request).named(user), tiller.model)
    return {"object": "list", "data": [_told(v) for v in held], "has_more": False, "next_cursor": None}


@router.delete("/{name}", openapi_extra=wire(schemas.user_data.Deleted))
async def delete_vector(request: Request, name: str, user: str = "") -> dict[str, Any]:
    """Forget one; presets that were saved with it keep it."""
    tiller: Tiller = request.app.state.tiller
    if not await tiller.store.delete_vector(caller_of(request).named(user), tiller.model, name):
        raise ApiError(
            404,
            f"there is no vector {name!r} of {user or 'yours'}; GET /v1/vectors lists them",
            code="not_found",
            param="name",
        )
    return {"id": f"vector/{name}", "object": "vector", "deleted": True}


def _told(v: Vector) -> dict[str, Any]:
    s = v.snapshot
    return {
        "object": "vector",
        "id": v.id,
        "name": v.name,
        "method": v.method,
        "auroc": v.auroc,
        "texts": {"a": v.texts[0], "b": v.texts[1]},
        "dose": s.dose,
        "measured": s.measured,
        "modes": ["add", "clamp", "scale", "ablate"] if s.encoder else ["add"],
        "created": v.created,
    }


def _taken(message: str) -> ApiError:
    return ApiError(409, message, code="vector_exists", param="name")
