"""`/v1/steering/compare`: the same messages under several steerings, generated in parallel with one seed.

All validation runs before the first byte, and `param` names the variant. A later error of one
variant is sent as an error event with its name; the other variants continue.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from server.api.body import JsonBody
from server.api.dependencies import current_account, current_model
from server.api.errors import to_api_error
from server.api.openapi import STREAMED_CHAT
from server.api.sse import cancel_on_disconnect, sse_response
from server.chat.merge_streams import MergedStreams, drained
from server.chat.prepare import prepare_chat
from server.chat.reply import Reply, complete, stream_chunks
from server.errors import ApiError
from server.limits.account import Account
from server.schemas.comparison import CompareRequest
from server.schemas.completions import Compared, Comparison
from server.serving.served_model import ServedModel
from server.serving.steering_choice import steering_headers
from steering.errors import SteeringError

router = APIRouter(prefix="/v1/steering", tags=["Steering"])
log = structlog.get_logger(__name__)


@router.post("/compare", response_model=Comparison, response_model_exclude_unset=True, responses=STREAMED_CHAT)
async def compare_variants(
    request: Request, response: Response, body: Annotated[CompareRequest, Depends(JsonBody(CompareRequest))]
) -> Comparison | StreamingResponse:
    """Answer the same messages once per variant, in parallel and with the same seed."""
    served = current_model(request)
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    account = current_account(request)
    replies = [
        (await cancel_on_disconnect(request, _prepare_variant(served, body, i, seed, account))).with_name(
            request.state.request_id
        )
        for i in range(len(body.variants))
    ]
    headers = steering_headers([r.choice for r in replies])
    if body.stream:
        return await sse_response(request, _stream_chunks(body, replies, seed), headers)
    answer = await cancel_on_disconnect(request, _complete(body, replies, seed))
    response.headers.update(headers)
    return answer


async def _prepare_variant(served: ServedModel, body: CompareRequest, i: int, seed: int, account: Account) -> Reply:
    variant = body.variants[i]
    changes = {"model": variant.model or body.model, "steering": variant.steering, "seed": seed}
    try:
        return await prepare_chat(served, body.model_copy(update=changes), account)
    except (ApiError, SteeringError) as error:
        raise _with_variant(error, body, i) from error


async def _stream_chunks(body: CompareRequest, replies: list[Reply], seed: int) -> AsyncGenerator[dict[str, Any], None]:
    """Chunks of all variants in order of arrival; each variant's first chunk carries the seed."""
    begun: set[int] = set()
    async with MergedStreams([drained(stream_chunks(r)) for r in replies]) as items:
        async for i, item in items:
            named = {"variant": body.variants[i].name, "index": i}
            if not isinstance(item, Exception):
                yield item | named | ({} if i in begun else {"seed": seed})
                begun.add(i)
            elif begun:
                yield _with_variant(item, body, i).body | named
            else:
                raise _with_variant(item, body, i) from item


async def _complete(body: CompareRequest, replies: list[Reply], seed: int) -> Comparison:
    tasks = [asyncio.ensure_future(complete(r)) for r in replies]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for i, task in enumerate(tasks):
            if task.done() and (error := task.exception()):
                raise _with_variant(error, body, i) from error
        data = [Compared(variant=body.variants[i].name, index=i, **dict(task.result())) for i, task in enumerate(tasks)]
        return Comparison(object="comparison", seed=seed, data=data)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _with_variant(error: BaseException, body: CompareRequest, i: int) -> ApiError:
    """The error with its variant in `param`; errors in shared fields keep their own `param`."""
    variant, found = body.variants[i], to_api_error(error)
    if found.code == "internal_error":
        log.error("variant failed", exc_info=error)
    field = (found.param or "").partition(".")[0]
    own = field in ("", "steering") or (field == "model" and variant.model is not None)
    told = found.within(f"variants.{i}", whose=f"variant {variant.name!r}")
    told.param = told.param if own else found.param
    return told
