"""`/v1/keys` and `/v1/me`: create, list and delete API keys; the caller's own key. A secret is shown only once."""

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from server import schemas
from server.api.dependencies import current_caller, current_model, job_queue, write_audit
from server.api.openapi import wire
from server.auth.keys import KeyRequest, new_key
from server.auth.permissions import denied_routes
from server.errors import ApiError, bad_request
from server.safety.policy import Bounds
from server.schemas.body import parse_body
from server.store.encryption import pseudonym
from server.store.models import Key, RateLimits, Role
from server.store.write_rules import is_of

router = APIRouter(prefix="/v1")


class KeyInfo(BaseModel):
    """A key, without its secret."""

    object: Literal["key"]
    id: str
    name: str
    prefix: str
    role: Role
    tenant: str
    owner: str
    limits: RateLimits
    default_preset: str | None
    created: int
    expires: int | None


class KeyCreated(KeyInfo):
    """A new key, with its secret."""

    secret: str


class KeyList(schemas.pages.Page):
    """All keys."""

    data: list[KeyInfo]


class Ended(BaseModel):
    """All browser sessions have ended."""

    object: Literal["sessions"]
    deleted: Literal[True]


class Me(BaseModel):
    """The caller."""

    object: Literal["me"]
    role: Role
    tenant: str
    owner: str | None
    key: str | None
    limits: RateLimits
    default_preset: str | None
    beyond: dict[str, Role]
    """Routes that need a higher role, as `POST /v1/presets`, and the minimum role of each."""
    steering: Bounds
    """Steering that the role permits; null for the server's own limits."""


class Erased(BaseModel):
    """Number of records deleted, by kind."""

    object: Literal["erased"]
    deleted: dict[str, int]


@router.post("/keys", status_code=201, openapi_extra=wire(KeyCreated, 401, 403, takes=KeyRequest))
async def create_key(request: Request) -> JSONResponse:
    """Create a key. `secret` is returned only in this response."""
    served = current_model(request)
    asked = parse_body(KeyRequest, await request.body())
    if asked.default_preset and await served.preset(asked.default_preset) is None:
        raise bad_request(f"no preset {asked.default_preset!r}", param="default_preset", code="unknown_preset")
    key, secret = new_key(**dict(asked))
    await served.store.add_key(key)
    await write_audit(request, "key made", made=key.id, role=key.role, tenant=key.tenant, owner=key.owner)
    await request.app.state.keyring.reload(served.store)
    return JSONResponse(_key_to_dict(key) | {"secret": secret}, 201, {"Cache-Control": "no-store"})


@router.get("/keys", openapi_extra=wire(KeyList, 401, 403))
async def list_keys(request: Request) -> dict[str, Any]:
    """All keys, without their secrets: the server stores hashes only."""
    served = current_model(request)
    found = [_key_to_dict(k) for k in await served.store.keys()]
    return {"object": "list", "data": found, "has_more": False, "next_cursor": None}


@router.delete("/keys/{key_id}", openapi_extra=wire(schemas.user_data.Deleted, 401, 403))
async def delete_key(request: Request, key_id: str) -> dict[str, Any]:
    """Delete a key. It stops working at once on this replica, and within a second on the others."""
    served = current_model(request)
    if not await served.store.delete_key(key_id):
        raise ApiError(404, f"no key {key_id[:64]!r}; GET /v1/keys lists them", code="not_found", param="id")
    await write_audit(request, "key deleted", deleted=key_id)
    await request.app.state.keyring.reload(served.store)
    return {"id": key_id, "object": "key", "deleted": True}


@router.delete("/sessions", openapi_extra=wire(Ended, 401, 403))
async def end_sessions(request: Request) -> dict[str, Any]:
    """End all browser sessions, the caller's own included; keys stay valid."""
    await request.app.state.keyring.end_sessions(current_model(request).store)
    await write_audit(request, "sessions ended")
    return {"object": "sessions", "deleted": True}


@router.get("/me", openapi_extra=wire(Me, 401))
async def get_me(request: Request) -> dict[str, Any]:
    """The caller's key, permissions and steering defaults."""
    caller, served = current_caller(request), current_model(request)
    return {
        "object": "me",
        "role": caller.role,
        "tenant": caller.tenant,
        "owner": caller.owner,
        "key": caller.key,
        "limits": caller.limits.model_dump(),
        "default_preset": caller.default_preset or served.settings.default_preset,
        "beyond": denied_routes(caller),
        "steering": served.policy.bounds(caller.role).model_dump(),
    }


@router.delete("/me", openapi_extra=wire(Erased, 401))
async def erase_me(request: Request, user: str = "") -> dict[str, Any]:
    """Delete the caller's data: training texts, votes, vectors, and with a key presets, shares and jobs. Keys stay.

    With `user`, the data of one of the caller's users. What a model has learned from a text stays;
    the text itself is deleted, from running training jobs as well, which end.
    """
    served, caller = current_model(request), current_caller(request)
    person, whole = caller.require_subject(user), not user or caller.alone
    givers = {t.user for t in await served.store.live_texts() if is_of(t.user, person)} | {person}
    gone = await served.store.erase(person, caller.tenant, caller.owner if whole else None)
    theirs = lambda job: whole and caller.owns(job.tenant, job.owner)  # noqa: E731
    jobs = await asyncio.to_thread(job_queue(request).erase_given, [*map(pseudonym, givers)], theirs=theirs)
    await request.app.state.revision_switch.relabel()
    await write_audit(request, "erased", deleted=gone | {"jobs": jobs})
    return {"object": "erased", "deleted": gone | {"jobs": jobs}}


def _key_to_dict(key: Key) -> dict[str, Any]:
    return {"object": "key"} | key.model_dump(exclude={"digest"})
