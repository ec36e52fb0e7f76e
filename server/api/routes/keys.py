"""`/v1/keys` and `/v1/me`: create, list and delete API keys; the caller's own key. A secret is shown only once."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from server.api.body import JsonBody
from server.api.dependencies import current_caller, current_model, job_queue, write_audit
from server.api.openapi import errors
from server.auth.keys import KeyRequest, new_key
from server.auth.permissions import denied_routes
from server.errors import ApiError, bad_request
from server.safety.policy import Bounds
from server.schemas.pages import Page
from server.schemas.user_data import Deleted
from server.store.encryption import pseudonym
from server.store.models import Key, RateLimits, Role
from server.store.write_rules import is_of

router = APIRouter(prefix="/v1", tags=["Keys"])


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


class KeyList(Page[KeyInfo]):
    """All keys."""


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


@router.post("/keys", status_code=201, responses=errors(400, 413))
async def create_key(
    request: Request, response: Response, body: Annotated[KeyRequest, Depends(JsonBody(KeyRequest))]
) -> KeyCreated:
    """Create a key. `secret` is returned only in this response."""
    served = current_model(request)
    if body.default_preset and await served.preset(body.default_preset) is None:
        raise bad_request(f"no preset {body.default_preset!r}", param="default_preset", code="unknown_preset")
    key, secret = new_key(**dict(body))
    await served.store.add_key(key)
    await write_audit(request, "key made", made=key.id, role=key.role, tenant=key.tenant, owner=key.owner)
    await request.app.state.keyring.reload(served.store)
    response.headers["Cache-Control"] = "no-store"
    return KeyCreated(object="key", **_public_fields(key), secret=secret)


@router.get("/keys")
async def list_keys(request: Request) -> KeyList:
    """All keys, without their secrets: the server stores hashes only."""
    served = current_model(request)
    return KeyList.of_all([KeyInfo(object="key", **_public_fields(k)) for k in await served.store.keys()])


@router.delete("/keys/{key_id}", responses=errors(400, 404))
async def delete_key(request: Request, key_id: str) -> Deleted:
    """Delete a key. It stops working at once on this replica, and within a second on the others."""
    served = current_model(request)
    if not await served.store.delete_key(key_id):
        raise ApiError(404, f"no key {key_id[:64]!r}; GET /v1/keys lists them", code="not_found", param="id")
    await write_audit(request, "key deleted", deleted=key_id)
    await request.app.state.keyring.reload(served.store)
    return Deleted(id=key_id, object="key", deleted=True)


@router.delete("/sessions")
async def end_sessions(request: Request) -> Ended:
    """End all browser sessions, the caller's own included; keys stay valid."""
    await request.app.state.keyring.end_sessions(current_model(request).store)
    await write_audit(request, "sessions ended")
    return Ended(object="sessions", deleted=True)


@router.get("/me")
async def get_me(request: Request) -> Me:
    """The caller's key, permissions and steering defaults."""
    caller, served = current_caller(request), current_model(request)
    return Me(
        object="me",
        role=caller.role,
        tenant=caller.tenant,
        owner=caller.owner,
        key=caller.key,
        limits=caller.limits,
        default_preset=caller.default_preset or served.settings.default_preset,
        beyond=denied_routes(caller),
        steering=served.policy.bounds(caller.role),
    )


@router.delete("/me", responses=errors(400))
async def erase_me(request: Request, user: str = "") -> Erased:
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
    return Erased(object="erased", deleted=gone | {"jobs": jobs})


def _public_fields(key: Key) -> dict[str, Any]:
    return key.model_dump(exclude={"digest"})
