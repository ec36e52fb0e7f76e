"""`/v1/vectors`: directions from examples, each user's own. Knows the wire and the store; `understand.vectors` makes them."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from server import schemas
from server.api.openapi import wire
from server.api.routes.contrast import TOGETHER, Sample, passages, streams
from server.auth.audit_log import noted
from server.auth.caller import caller_of
from server.errors import ApiError, bad_request
from server.limits.rate_limiter import Account
from server.schemas.generation import parse
from server.serving.served_model import Tiller
from server.store.base import Conflict
from server.store.encryption import alias
from steering.doses.measure import Found
from steering.doses.vectors import direction_of, mean_row, measured, vector_of
from steering.errors import SteeringError
from steering.interpret.directions import Direction, Method
from steering.spec import Vector

router = APIRouter(prefix="/v1/vectors")
PAIRS = 64
MOST = 100
"""Vectors of one user."""


class VectorRequest(BaseModel):
    """POST /v1/vectors."""

    model_config = ConfigDict(extra="forbid")

    user: str | None = Field(default=None, min_length=1, max_length=256)
    """Whose it is: nobody else can list it or steer by it. With a key, its owner's if not given."""
    name: str = Field(pattern=r"^[a-z][a-z0-9._-]{0,63}$")
    """It steers as the feature `vector/<name>`."""
    model: str | None = None
    method: Method = "diffmean"
    a: list[Sample] = Field(min_length=1, max_length=PAIRS)
    """Texts or chats that have it."""
    b: list[Sample] = Field(min_length=1, max_length=PAIRS)
    """Such that have not; best the same in all else."""
    replace: bool = False


@router.post("", status_code=201, openapi_extra=wire(schemas.user_data.VectorMade, 404, 409, 429, takes=VectorRequest))
async def create_vector(request: Request) -> dict[str, Any]:
    """Make a vector of examples and measure its dose."""
    body = parse(VectorRequest, await request.body())
    tiller: Tiller = request.app.state.tiller
    await tiller.choose(body.model, None)
    person = caller_of(request).named(body.user)
    if not body.replace and await tiller.store.vector(person, tiller.model, body.name):
        raise _taken(f"there is a vector {body.name!r} already; choose another name, or set replace to true")
    found = await _direction(tiller, body, Account.of(request))
    bundle, sizes = tiller.bundle, (len(body.a), len(body.b))
    dose = await _dose(tiller, found)
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


async def _direction(tiller: Tiller, body: VectorRequest, account: Account) -> Direction:
    sides = [await passages(tiller, samples, name) for name, samples in (("a", body.a), ("b", body.b))]
    if sum(len(p.ids) for side in sides for p in side) > TOGETHER:
        raise bad_request(f"more than {TOGETHER} tokens in all; give shorter texts", param="a")
    async with account.reading(sum(len(p.ids) for side in sides for p in side)):
        rows = [[mean_row(p, x) for p, x in await streams(tiller, side)] for side in sides]
    try:
        return await asyncio.to_thread(direction_of, body.method, *rows)
    except SteeringError as error:
        raise bad_request(str(error), param="b") from error


async def _dose(tiller: Tiller, found: Direction) -> Found | None:
    """As measured; None where the model cannot be looked at, or does not chat."""
    info, tokenizer = tiller.bundle.info, tiller.engine.tokenizer
    try:
        return await tiller.engine.study(lambda model: measured(model, tokenizer, info, found.direction))
    except SteeringError:  # it steers all the same: dose 1.0 is then half of a typical length, and every reply says so
        return None


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
