"""`/v1/vectors`: a user's own steering directions, computed from examples."""

import time
from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import current_account, current_caller, current_model, write_audit
from server.api.openapi import wire
from server.errors import ApiError
from server.schemas.body import parse_body
from server.schemas.user_data import VectorRequest
from server.store.base import Conflict
from server.store.encryption import pseudonym
from server.user_data.vectors import MAX_VECTORS, find_direction, measure_dose
from steering.doses.vectors import vector_of
from steering.spec import Vector

router = APIRouter(prefix="/v1/vectors")


@router.post("", status_code=201, openapi_extra=wire(schemas.user_data.VectorInfo, 404, 409, 429, takes=VectorRequest))
async def create_vector(request: Request) -> dict[str, Any]:
    """Compute a vector from examples and measure its dose."""
    body = parse_body(VectorRequest, await request.body())
    served = current_model(request)
    await served.choose(body.model, None)
    person = current_caller(request).require_subject(body.user)
    if not body.replace and await served.store.vector(person, served.model, body.name):
        raise _already_exists(f"there is a vector {body.name!r} already; choose another name, or set replace to true")
    found = await find_direction(served, body, current_account(request))
    bundle, sizes = served.bundle, (len(body.a), len(body.b))
    dose = await measure_dose(served, found)
    vector = vector_of(body.name, body.method, found, dose, bundle.sae, bundle.info, texts=sizes)
    vector = vector.model_copy(update={"created": int(time.time())})
    try:
        await served.store.save_vector(person, served.model, vector, replace=body.replace, most=MAX_VECTORS)
    except Conflict as error:
        raise _already_exists(f"{error}; choose another name and replace, or delete one") from error
    await write_audit(request, "vector made", vector=pseudonym(vector.id), method=vector.method)
    return _vector_to_dict(vector)


@router.get("", openapi_extra=wire(schemas.user_data.VectorList))
async def list_vectors(request: Request, user: str = "") -> dict[str, Any]:
    """A user's own vectors."""
    served = current_model(request)
    held = await served.store.vectors(current_caller(request).require_subject(user), served.model)
    return {"object": "list", "data": [_vector_to_dict(v) for v in held], "has_more": False, "next_cursor": None}


@router.delete("/{name}", openapi_extra=wire(schemas.user_data.Deleted))
async def delete_vector(request: Request, name: str, user: str = "") -> dict[str, Any]:
    """Delete a vector; presets that were saved with it keep their copy."""
    served = current_model(request)
    if not await served.store.delete_vector(current_caller(request).require_subject(user), served.model, name):
        raise ApiError(
            404,
            f"there is no vector {name!r} of {user or 'yours'}; GET /v1/vectors lists them",
            code="not_found",
            param="name",
        )
    return {"id": f"vector/{name}", "object": "vector", "deleted": True}


def _vector_to_dict(v: Vector) -> dict[str, Any]:
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


def _already_exists(message: str) -> ApiError:
    return ApiError(409, message, code="vector_exists", param="name")
