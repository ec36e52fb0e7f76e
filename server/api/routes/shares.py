"""`/v1/shares`: a steering with its model, seed and optionally messages, at an unguessable address.

Off by default, because anyone with the address can read a share. It expires, and can be deleted
with the key returned at its creation.
"""

import hashlib
import json
import secrets
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from server.api.body import JsonBody
from server.api.dependencies import current_caller, current_model, write_audit
from server.api.openapi import errors
from server.errors import ApiError
from server.schemas.generation import to_messages
from server.schemas.user_data import Deleted, Share, ShareMade, ShareRequest
from server.serving.served_model import ServedModel
from server.store import models
from server.store.base import Conflict
from server.store.encryption import pseudonym

router = APIRouter(prefix="/v1/shares", tags=["Shares"])


@router.post("", status_code=201, responses=errors(400, 404, 409, 413))
async def create_share(
    request: Request, response: Response, body: Annotated[ShareRequest, Depends(JsonBody(ShareRequest))]
) -> ShareMade:
    """Share a steering; `key` is returned only once and deletes the share."""
    served = _require_sharing(request)
    caller = current_caller(request)
    await served.choose(body.model, body.steering, caller=caller)  # a user's vector is private and cannot be shared
    content = body.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if body.messages is not None:
        content["messages"] = to_messages(body.messages)
    text, most = json.dumps(content, ensure_ascii=False), served.settings.share_bytes
    if len(text.encode()) > most:
        raise ApiError(
            413, f"a share may have at most {most} bytes; leave messages out", code="share_too_large", param="messages"
        )
    key, now = secrets.token_urlsafe(16), int(time.time())
    expires = now + int(86_400 * served.settings.share_days)
    share = models.Share(secrets.token_urlsafe(16), _digest(key), text, now, expires, caller.tenant, caller.owner or "")
    try:
        await served.store.add_share(share, most=served.settings.share_most)
    except Conflict as error:
        raise ApiError(409, f"{error}; try again when some have expired", code="shares_full") from error
    await write_audit(request, "shared", share=pseudonym(share.id))
    response.headers["Cache-Control"] = "no-store"
    return ShareMade(**_public_fields(share), key=key)


@router.get("/{share_id}", responses=errors(400, 404))
async def get_share(request: Request, response: Response, share_id: str) -> Share:
    """Retrieve a share."""
    found = await _find_share(_require_sharing(request), share_id)
    response.headers["Cache-Control"] = "no-store"
    return Share(**_public_fields(found))


@router.delete("/{share_id}", responses=errors(400, 404))
async def delete_share(request: Request, share_id: str, key: str = "") -> Deleted:
    """Delete a share, with the key returned at its creation."""
    served = _require_sharing(request)
    found = await _find_share(served, share_id)
    caller = current_caller(request)
    theirs = caller.owner is not None and (caller.has_role("admin") or caller.owns(found.tenant, found.owner))
    if not theirs and not secrets.compare_digest(found.key, _digest(key)):
        raise ApiError(
            403,
            "a share can only be deleted with the key returned at its creation: ?key=…",
            code="wrong_key",
            param="key",
            kind="permission_error",
        )
    await served.store.delete_share(share_id)
    return Deleted(id=share_id, object="share", deleted=True)


def _require_sharing(request: Request) -> ServedModel:
    served = current_model(request)
    if not served.settings.shares:
        raise ApiError(
            403,
            "sharing is disabled on this server; the operator can enable it with TILLER_SHARES=true",
            code="shares_off",
            kind="permission_error",
        )
    return served


async def _find_share(served: ServedModel, share_id: str) -> models.Share:
    if found := await served.store.share(share_id):
        return found
    raise ApiError(404, "share not found; it may have expired", code="share_not_found", param="id")


def _public_fields(share: models.Share) -> dict[str, Any]:
    empty = {"model": None, "steering": None, "seed": None, "messages": None, "title": None}
    about = {"object": "share", "id": share.id, "created": share.created, "expires": share.expires}
    return about | empty | json.loads(share.content)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
