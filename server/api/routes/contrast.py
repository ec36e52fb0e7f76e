"""`/v1/features/contrast`: which features tell two sets of texts apart. Knows the wire; `understand.contrast` tests."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from server import schemas
from server.api.openapi import wire
from server.errors import bad_request
from server.limits.rate_limiter import Account
from server.schemas.generation import Said, messages_of, parse
from server.serving.served_model import Tiller
from steering.errors import BadChat
from steering.interpret.contrast import By, Fired, Read, contrast, fired, told
from steering.model.passage import Passage, of_chat, of_text

router = APIRouter(prefix="/v1")
DOCUMENTS = 1000
"""Of each side."""
TOGETHER = 200_000
"""Tokens that one request may ask to be read, of both sides together."""
AT_ONCE = 64
"""Documents whose streams are held at a time."""

Sample = Annotated[str, Field(min_length=1)] | Annotated[list[Said], Field(min_length=1, max_length=2000)]
"""A text, or a chat's messages."""


class ContrastRequest(BaseModel):
    """POST /v1/features/contrast."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    a: list[Sample] = Field(min_length=1, max_length=DOCUMENTS)
    b: list[Sample] = Field(min_length=1, max_length=DOCUMENTS)
    top_k: int = Field(default=20, ge=1, le=256)
    """How many features of each direction."""
    by: By = "any"
    """Whether a feature fires in a document at all, or how strongly on average."""


@router.post("/features/contrast", openapi_extra=wire(schemas.features.Contrast, 404, 429, takes=ContrastRequest))
async def contrast_texts(request: Request) -> dict[str, Any]:
    """The features that separate A from B, with shares of documents, log-odds, effect size, p and q."""
    body = parse(ContrastRequest, await request.body())
    tiller: Tiller = request.app.state.tiller
    await tiller.choose(body.model, None)
    bundle = tiller.bundle
    bundle.sae.check_reads()
    read = [await passages(tiller, samples, name) for name, samples in (("a", body.a), ("b", body.b))]
    if sum(len(p.ids) for side in read for p in side) > TOGETHER:
        raise bad_request(f"more than {TOGETHER} tokens in all; give fewer or shorter texts", param="a")
    async with Account.of(request).reading(sum(len(p.ids) for side in read for p in side)):
        sides = [await _fired(tiller, side) for side in read]
    found = await asyncio.to_thread(contrast, *sides, by=body.by)
    return {
        "object": "contrast",
        "model": tiller.model,
        "revision": bundle.info.revision,
        **told(found, bundle, body.top_k),
    }


async def passages(tiller: Tiller, samples: Sequence[Sample], param: str) -> list[Passage]:
    """Texts and chats as the model reads them, each cut where the context ends. Raises BadChat that names which."""
    tokenizer = tiller.engine.tokenizer

    def one(i: int, sample: Sample) -> Passage:
        try:
            found = of_text(tokenizer, sample) if isinstance(sample, str) else of_chat(tokenizer, messages_of(sample))
        except BadChat as error:
            raise bad_request(f"{param}.{i}: {error}", param=f"{param}.{i}") from error
        return found.until(tiller.engine.max_model_len)

    return await asyncio.to_thread(lambda: [one(i, s) for i, s in enumerate(samples)])


async def streams(tiller: Tiller, read: Sequence[Passage]) -> list[Read]:
    """The passages with their unsteered streams."""
    found = await tiller.engine.record([p.ids for p in read], tiller.bundle.info.hook)
    return list(zip(read, found, strict=True))


async def _fired(tiller: Tiller, side: Sequence[Passage]) -> Fired:
    """What fires in each document; of the streams only a few are held at a time."""
    parts = []
    for start in range(0, len(side), AT_ONCE):
        some = await streams(tiller, side[start : start + AT_ONCE])
        parts.append(await asyncio.to_thread(fired, tiller.bundle.sae, some))
    return Fired.joined(parts)
