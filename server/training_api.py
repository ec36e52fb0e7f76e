"""`/v1/training…`: who agrees that their conversations are learnt from, and who takes it back. Nobody does until they say so."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from server.choice import Tiller
from server.errors import bad_request
from server.protocol import parse

router = APIRouter()


class Consent(BaseModel):
    """What a user says."""

    model_config = ConfigDict(extra="forbid")

    user: str = Field(min_length=1, max_length=256)
    """The `user` that their requests carry."""
    consent: bool


@router.get("/v1/training/consent")
async def consent(request: Request, user: str = "") -> dict[str, Any]:
    """Whether a user has agreed, and how much is kept of them."""
    return await _state(request.app.state.tiller, _named(user))


@router.put(
    "/v1/training/consent",
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": Consent.model_json_schema()}}}},
)
async def agree(request: Request) -> dict[str, Any]:
    """Agree, or take it back: then everything kept of this user is deleted at once."""
    said, tiller = parse(Consent, await request.body()), request.app.state.tiller
    await tiller.store.set_consent(said.user, said.consent)
    return await _state(tiller, said.user)


@router.delete("/v1/training/texts")
async def forget(request: Request, user: str = "") -> dict[str, Any]:
    """Delete what is kept of a user, who may go on giving."""
    tiller: Tiller = request.app.state.tiller
    return {"user": _named(user), "deleted": await tiller.store.forget_texts(user)}


async def _state(tiller: Tiller, user: str) -> dict[str, Any]:
    texts = [t for t in await tiller.store.live_texts() if t.user == user]
    return {
        "user": user,
        "consent": await tiller.store.consent(user),
        "texts": len(texts),
        "most": tiller.settings.live_texts,
        "days": tiller.settings.live_days,
    }


def _named(user: str) -> str:
    if not user:
        raise bad_request("say whose: ?user=…, the `user` that their requests carry", param="user")
    return user
