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

from server import schemas
from server.api.dependencies import account_of
from server.api.errors import as_api_error
from server.api.openapi import CHUNKS, wire
from server.api.sse import streamed, while_connected
from server.chat.merge_streams import together
from server.chat.prepare import chat_reply
from server.chat.reply import Reply, chunks, whole
from server.errors import ApiError
from server.limits.account import Account
from server.schemas.body import parse
from server.schemas.comparison import CompareRequest
from server.serving.served_model import Tiller
from server.serving.steering_choice import disclosed
from steering.errors import SteeringError

router = APIRouter(prefix="/v1/steering")
log = structlog.get_logger(__name__)


@router.post(
    "/compare", openapi_extra=wire(schemas.completions.Comparison, 404, 429, takes=CompareRequest, events=CHUNKS)
)
async def compare_variants(request: Request) -> Response:
    """Answer the same messages once for each variant, all at the same time and with the same seed."""
    body = parse(CompareRequest, await request.body())
    tiller: Tiller = request.app.state.tiller
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    account = account_of(request)
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
