"""`/v1/steering/suggest`: sliders for a wish or a question."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from server import schemas
from server.api.dependencies import current_account, current_model
from server.api.openapi import wire
from server.features.read_text import read_text
from server.limits.account import Account
from server.schemas.analysis import TextInput
from server.schemas.body import parse_body
from server.schemas.generation import MessageInput
from server.serving.served_model import ServedModel
from steering.catalogue.feature import Feature
from steering.doses.suggest import Proposal, candidates, propose
from steering.interpret.analysis import analyse

router = APIRouter(prefix="/v1")


class SuggestRequest(BaseModel):
    """POST /v1/steering/suggest: a wish, or the messages that a reply is wanted for."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    wish: str | None = Field(default=None, min_length=1, max_length=300)
    """How replies should be: `more poetic, less formal`."""
    messages: list[MessageInput] | None = Field(default=None, min_length=1, max_length=200)
    limit: int = Field(default=3, ge=1, le=3)

    @model_validator(mode="after")
    def _something(self) -> "SuggestRequest":
        if self.wish is None and self.messages is None:
            raise ValueError("give either wish or messages")
        return self


@router.post("/steering/suggest", openapi_extra=wire(schemas.completions.Suggestion, 404, 429, takes=SuggestRequest))
async def suggest_steering(request: Request) -> dict[str, Any]:
    """At most three calibrated features with doses, and the reason for each."""
    body = parse_body(SuggestRequest, await request.body())
    served = current_model(request)
    await served.choose(body.model, None)
    if body.wish is None:
        return await _features_of_question(served, body, current_account(request))
    bundle, tokenizer, wish = served.bundle, served.engine.tokenizer, body.wish
    async with current_account(request).charge_reading(len(served.engine.encode(wish))):
        found = await served.engine.with_model(lambda model: propose(model, tokenizer, bundle, wish, most=body.limit))
    return _suggestion_to_dict(found)


async def _features_of_question(served: ServedModel, body: SuggestRequest, account: Account) -> dict[str, Any]:
    """Features that the question itself activates, at a slightly higher strength."""
    able = {f.row: f for f in candidates(served.bundle)}
    passage, stream, _ = await read_text(served, TextInput(messages=body.messages), account)
    found = await asyncio.to_thread(analyse, served.bundle, passage, stream, features=200)
    best = [e for e in found.features if e.row in able][: body.limit]
    features = [_item(able[e.row], _middle(able[e.row]), "the question itself evokes it") for e in best]
    return {"object": "suggestion", "features": features, "gain": None, "prompt_gain": None, "random_gain": None}


def _suggestion_to_dict(found: Proposal) -> dict[str, Any]:
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
