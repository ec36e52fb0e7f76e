"""`/v1/steering/suggest`: sliders for a wish or a question."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from server.api.body import JsonBody
from server.api.dependencies import current_account, current_caller, current_index, current_model
from server.api.openapi import errors
from server.executors import READING, SEARCH, run_in
from server.features.read_text import read_text
from server.limits.account import Account
from server.schemas.analysis import TextInput
from server.schemas.completions import SuggestedSlider, Suggestion, SuggestRequest
from server.serving.served_model import ServedModel
from steering.catalogue.feature import Feature
from steering.catalogue.suggest import Proposal, candidates, suggest
from steering.interpret.analysis import analyse

router = APIRouter(prefix="/v1", tags=["Steering"])


@router.post("/steering/suggest", responses=errors(400, 404, 413), response_model_exclude_unset=True)
async def suggest_steering(
    request: Request, body: Annotated[SuggestRequest, Depends(JsonBody(SuggestRequest))]
) -> Suggestion:
    """At most three calibrated features with doses, and the reason for each; nothing where no label fits the wish."""
    served = current_model(request)
    await served.choose(body.model, None)
    if body.wish is None:
        return await _features_of_question(served, body, current_account(request))
    presets, index = await served.presets(current_caller(request)), current_index(request)
    found = await run_in(SEARCH, suggest, served.bundle, presets, body.wish, index.similarities, most=body.limit)
    return _suggestion(found)


async def _features_of_question(served: ServedModel, body: SuggestRequest, account: Account) -> Suggestion:
    """Features that the question itself activates, at a slightly higher strength."""
    able = {f.row: f for f in candidates(served.bundle)}
    passage, stream, _ = await read_text(served, TextInput(messages=body.messages), account)
    found = await run_in(READING, analyse, served.bundle, passage, stream, features=200)
    best = [e for e in found.features if e.row in able][: body.limit]
    features = [_slider(able[e.row], _middle(able[e.row]), "the question itself evokes it") for e in best]
    return Suggestion(object="suggestion", features=features, gain=None, prompt_gain=None, random_gain=None)


def _suggestion(found: Proposal) -> Suggestion:
    return Suggestion(
        object="suggestion",
        features=[
            _slider(s.feature, s.dose, s.why).model_copy(update={"similarity": s.similarity}) for s in found.suggestions
        ],
        preset=found.preset.id if found.preset else None,
        gain=None,
        prompt_gain=None,
        random_gain=None,
        system_prompts=list(found.prompts),
    )


def _slider(feature: Feature, dose: float, why: str) -> SuggestedSlider:
    return SuggestedSlider(id=feature.id, label=feature.label, strength=dose, mode="add", unit="dose", why=why)


def _middle(feature: Feature) -> float:
    assert feature.sweet_spot
    return round(0.5 * (feature.sweet_spot.low + feature.sweet_spot.high), 2)
