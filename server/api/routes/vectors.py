"""`/v1/vectors`: a user's own steering directions, computed from examples."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from server.api.body import JsonBody
from server.api.dependencies import current_account, current_caller, current_model, write_audit
from server.api.openapi import errors
from server.errors import ApiError
from server.schemas.features import Sides
from server.schemas.user_data import Deleted, VectorInfo, VectorList, VectorRequest
from server.store.base import Conflict
from server.store.encryption import pseudonym
from server.user_data.vectors import MAX_VECTORS, find_direction, measure_dose
from steering.doses.vectors import vector_of
from steering.spec import Vector

router = APIRouter(prefix="/v1/vectors", tags=["Users"])


@router.post("", status_code=201, responses=errors(400, 404, 409, 413))
async def create_vector(
    request: Request, body: Annotated[VectorRequest, Depends(JsonBody(VectorRequest))]
) -> VectorInfo:
    """Compute a vector from examples and measure its dose."""
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
    return _vector_info(vector)


@router.get("", responses=errors(400))
async def list_vectors(request: Request, user: str = "") -> VectorList:
    """A user's own vectors."""
    served = current_model(request)
    held = await served.store.vectors(current_caller(request).require_subject(user), served.model)
    return VectorList.of_all([_vector_info(v) for v in held])


@router.delete("/{name}", responses=errors(400, 404))
async def delete_vector(request: Request, name: str, user: str = "") -> Deleted:
    """Delete a vector; presets that were saved with it keep their copy."""
    served = current_model(request)
    if not await served.store.delete_vector(current_caller(request).require_subject(user), served.model, name):
        raise ApiError(
            404,
            f"there is no vector {name!r} of {user or 'yours'}; GET /v1/vectors lists them",
            code="not_found",
            param="name",
        )
    return Deleted(id=f"vector/{name}", object="vector", deleted=True)


def _vector_info(v: Vector) -> VectorInfo:
    s = v.snapshot
    return VectorInfo(
        object="vector",
        id=v.id,
        name=v.name,
        method=v.method,
        auroc=v.auroc,
        texts=Sides(a=v.texts[0], b=v.texts[1]),
        dose=s.dose,
        measured=s.measured,
        modes=["add", "clamp", "scale", "ablate"] if s.encoder else ["add"],
        created=v.created,
    )


def _already_exists(message: str) -> ApiError:
    return ApiError(409, message, code="vector_exists", param="name")
