"""`/v1/steering/compare`: one question, several steerings, all answered at once with one seed. Knows variants; replies are elsewhere.

What can be refused is refused before the first byte, and `param` says in which variant. A variant that breaks later is
told as an error event with its name; the others go on.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from server import schemas
from server.api.openapi import CHUNKS, wire
from server.api.sse import streamed, together, while_connected
from server.chat.prepare import chat_reply
from server.chat.reply import Reply, chunks, whole
from server.errors import ApiError, as_api_error, bad_request
from server.limits.rate_limiter import Account
from server.schemas.generation import ChatRequest, SteeringRequest, parse
from server.serving.served_model import Tiller, disclosed
from steering.errors import SteeringError

router = APIRouter(prefix="/v1/steering")
log = structlog.get_logger(__name__)
VARIANTS = 8
"""As many are compared at once."""


class Variant(BaseModel):
    """One of the replies: what it is called, and how it is steered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=80)
    steering: SteeringRequest | None = None
    model: str | None = Field(default=None, min_length=1)
    """In place of the request's: `base@preset` names a persona."""


class CompareRequest(ChatRequest):
    """A chat's fields, and the variants in place of its `steering`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variants: list[Variant] = Field(min_length=1, max_length=VARIANTS)

    @model_validator(mode="after")
    def _each_by_itself(self) -> "CompareRequest":
        names = [v.name for v in self.variants]
        if repeated := [n for i, n in enumerate(names) if n in names[:i]]:
            at = f"variants.{len(names) - 1 - names[::-1].index(repeated[0])}.name"
            raise bad_request(f"two variants are called {repeated[0]!r}; give each a name of its own", param=at)
        if self.steering is not None:
            raise bad_request("each variant brings its own steering; leave this one out", param="steering")
        if self.n != 1:
            raise bad_request("each variant is said once; leave n out, or name more variants", param="n")
        return self


@router.post(
    "/compare", openapi_extra=wire(schemas.completions.Comparison, 404, 429, takes=CompareRequest, events=CHUNKS)
)
async def compare_variants(request: Request) -> Response:
    """Answer the same messages once for each variant, all at the same time and with the same seed."""
    body = parse(CompareRequest, await request.body())
    tiller: Tiller = request.app.state.tiller
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    account = Account.of(request)
    replies = [
        (await while_connected(request, _reply(tiller, body, i, seed, account))).called(request.state.request_id)
        for i in range(len(body.variants))
    ]
    if body.stream:
        answer: Response = await streamed(request, _chunks(body, replies, seed))
    else:
        answer = JSONResponse(await while_connected(request, _whole(body, replies, seed)))
    answer.headers.update(disclosed([r.choice for r in replies]))
    return answer


async def _reply(tiller: Tiller, body: CompareRequest, i: int, seed: int, account: Account) -> Reply:
    variant = body.variants[i]
    changes = {"model": variant.model or body.model, "steering": variant.steering, "seed": seed}
    try:
        return await chat_reply(tiller, body.model_copy(update=changes), account)
    except (ApiError, SteeringError) as error:
        raise _named(error, body, i) from error


async def _chunks(body: CompareRequest, replies: list[Reply], seed: int) -> AsyncGenerator[dict[str, Any], None]:
    """All variants' chunks as they come; the first of each tells the seed."""
    begun: set[int] = set()
    async with aclosing(together([chunks(r) for r in replies])) as items:
        async for i, item in items:
            named = {"variant": body.variants[i].name, "index": i}
            if not isinstance(item, Exception):
                yield item | named | ({} if i in begun else {"seed": seed})
                begun.add(i)
            elif begun:
                yield _named(item, body, i).body | named
            else:
                raise _named(item, body, i) from item


async def _whole(body: CompareRequest, replies: list[Reply], seed: int) -> dict[str, Any]:
    tasks = [asyncio.ensure_future(whole(r)) for r in replies]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for i, task in enumerate(tasks):
            if task.done() and (error := task.exception()):
                raise _named(error, body, i) from error
        data = [{"variant": body.variants[i].name, "index": i, **task.result()} for i, task in enumerate(tasks)]
        return {"object": "comparison", "seed": seed, "data": data}
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _named(error: BaseException, body: CompareRequest, i: int) -> ApiError:
    """The error with its variant; what all variants share keeps its own place."""
    variant, found = body.variants[i], as_api_error(error)
    if found.code == "internal_error":
        log.error("variant broke", exc_info=error)
    field = (found.param or "").partition(".")[0]
    own = field in ("", "steering") or (field == "model" and variant.model is not None)
    told = found.within(f"variants.{i}", whose=f"variant {variant.name!r}")
    told.param = told.param if own else found.param
    return told
