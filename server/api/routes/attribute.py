"""`/v1/attribute`: attribution of the next token to features."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from transformers import PreTrainedTokenizerFast

from server.api.body import JsonBody
from server.api.dependencies import current_account, current_model
from server.api.openapi import errors
from server.engines.base import Generation
from server.errors import ApiError, bad_request
from server.executors import READING, run_in
from server.features.read_text import encode_prompt
from server.schemas.analysis import AttributeRequest, Attribution, Cause, TokenExplained
from server.schemas.generation import to_messages
from server.serving.served_model import ServedModel
from server.serving.steering_choice import GUARD_MESSAGES
from steering.catalogue.bundle import Bundle
from steering.interpret.attribution import Attributed, attribute, token_of

router = APIRouter(prefix="/v1", tags=["Text"])
LONGEST = 2048
"""Maximum number of prompt tokens; each ablation runs the model on all of them."""


@router.post("/attribute", responses=errors(400, 404, 413))
async def attribute_token(
    request: Request, body: Annotated[AttributeRequest, Depends(JsonBody(AttributeRequest))]
) -> Attribution:
    """Features that contribute to the next token, by gradient and by ablation."""
    served = current_model(request)
    await served.choose(body.model, None)
    bundle, tokenizer = served.bundle, served.engine.tokenizer
    target, against = (None if t is None else token_of(tokenizer, t, param=n) for n, t in _tokens_to_explain(body))
    messages = to_messages(body.messages) if body.messages is not None else None
    ids = await run_in(READING, encode_prompt, tokenizer, body.text, messages)
    longest = min(LONGEST, served.engine.max_model_len)
    if len(ids) > longest:
        raise bad_request(
            f"{len(ids)} tokens; at most {longest} can be explained", param="text" if body.text else "messages"
        )
    await _check_guards(served, ids)
    async with current_account(request).charge_reading(len(ids)):
        found = await served.engine.with_model(
            lambda model: attribute(
                model, bundle.sae, bundle.info.hook, ids, target=target, against=against, tried=max(20, body.top_k)
            )
        )
    return _answer(found, bundle, tokenizer, ids, body.top_k)


async def _check_guards(served: ServedModel, ids: list[int]) -> None:
    """Raise ApiError for a prompt that the guards refuse: repeated calls for the next token would
    otherwise return the refused reply."""
    if served.guards is None:
        return
    verdict = await served.guards.check_prompt(Generation(tuple(ids), (False,) * len(ids), steer_new=False))
    if verdict.outcome == "refused":
        raise ApiError(403, GUARD_MESSAGES["refused"], code="prompt_refused", param=None, kind="permission_error")


def _answer(
    found: Attributed, bundle: Bundle, tokenizer: PreTrainedTokenizerFast, ids: list[int], top: int
) -> Attribution:
    """An attribution with features by id and tokens as text."""
    token = lambda i: TokenExplained(id=i, text=str(tokenizer.decode([i])))  # noqa: E731
    features = [
        Cause(
            id=bundle.features[c.row].id,
            label=bundle.features[c.row].label,
            attribution=round(c.attribution, 4),
            ablation=None if c.ablation is None else round(c.ablation, 4),
            activation=round(c.activation, 4),
            at=c.peak,
            token=str(tokenizer.decode([ids[c.peak]])),
        )
        for c in found.causes[:top]
    ]
    return Attribution(
        object="attribution",
        model=bundle.info.name,
        revision=bundle.info.revision,
        target=token(found.target),
        against=None if found.against is None else token(found.against),
        value=round(found.value, 4),
        probability=round(found.probability, 6),
        explained=round(found.explained, 4),
        active=len(found.causes),
        features=features,
    )


def _tokens_to_explain(body: AttributeRequest) -> list[tuple[str, str | None]]:
    return [("target", body.target), ("against", body.against)]
