"""`/v1/steering/suggest`: from a wish, or from a question, to a few sliders. Knows the wire; `understand.suggest` finds them."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from server import schemas
from server.api.dependencies import account_of
from server.api.openapi import wire
from server.features.read_text import read
from server.limits.account import Account
from server.schemas.analysis import Looked
from server.schemas.body import parse
from server.schemas.generation import Said
from server.serving.served_model import Tiller
from steering.catalogue.feature import Feature
from steering.doses.suggest import Proposal, candidates, propose
from steering.interpret.analysis import analyse

router = APIRouter(prefix="/v1")


class SuggestRequest(BaseModel):
    """POST /v1/steering/suggest: a wish, or the messages that a reply is wanted for."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    wish: str | None = Field(default=None, min_length=1, max_length=300)
    """What replies should be like: `more poetic, less formal`."""
    messages: list[Said] | None = Field(default=None, min_length=1, max_length=200)
    limit: int = Field(default=3, ge=1, le=3)

    @model_validator(mode="after")
    def _something(self) -> "SuggestRequest":
        if self.wish is None and self.messages is None:
            raise ValueError("say what you wish for, or give the messages")
        return self


@router.post("/steering/suggest", openapi_extra=wire(schemas.completions.Suggestion, 404, 429, takes=SuggestRequest))
async def suggest_steering(request: Request) -> dict[str, Any]:
    """At most three calibrated features with doses, and for each the reason."""
    body = parse(SuggestRequest, await request.body())
    tiller: Tiller = request.app.state.tiller
    await tiller.choose(body.model, None)
    if body.wish is None:
        return await _evoked(tiller, body, account_of(request))
    bundle, tokenizer, wish = tiller.bundle, tiller.engine.tokenizer, body.wish
    async with account_of(request).reading(len(tiller.engine.encode(wish))):
        found = await tiller.engine.study(lambda model: propose(model, tokenizer, bundle, wish, most=body.limit))
    return _told(found)


async def _evoked(tiller: Tiller, body: SuggestRequest, account: Account) -> dict[str, Any]:
    """What the question itself evokes, a little more of it."""
    able = {f.row: f for f in candidates(tiller.bundle)}
    passage, stream, _ = await read(tiller, Looked(messages=body.messages), account)
    found = await asyncio.to_thread(analyse, tiller.bundle, passage, stream, features=200)
    best = [e for e in found.features if e.row in able][: body.limit]
    features = [_item(able[e.row], _middle(able[e.row]), "the question itself evokes it") for e in best]
    return {"object": "suggestion", "features": features, "gain": None, "prompt_gain": None, "random_gain": None}


def _told(found: Proposal) -> dict[str, Any]:
    return {
        "object": "suggestion",
        "features": [_item(s.feature, s.dose, s.why) | {"gain": s.gain} for s in found.suggestions],
        "gain": found.gain,
        "prompt_gain": found.prompt_gain,
        "random_gain": found.random_gain,
        "system_prompts": list(found.prompts),
    }


def _item(feature: Feature, dose: float, why: str) -> dict[str, Any]:
    return {"id": feature.id, "label": feature.label, "strength": dose, "mode": "add", "unit": "dose", "why": why}


def _middle(feature: Feature) -> float:
    assert feature.sweet_spot
    return round(0.5 * (feature.sweet_spot.low + feature.sweet_spot.high), 2)
