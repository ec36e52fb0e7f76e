"""Server-sent events: formatting, streaming responses, and cancellation when the client disconnects."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import structlog
from fastapi import Request
from fastapi.responses import StreamingResponse

from server.api.errors import to_api_error
from server.errors import bad_request
from server.telemetry import metrics

log = structlog.get_logger(__name__)
T = TypeVar("T")
LINE_ENDS = {ord(c): f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}
"""Escapes for characters that Python treats as line ends but JSON leaves as they are."""


async def sse_response(
    request: Request, events: AsyncGenerator[dict[str, Any], None], headers: Mapping[str, str]
) -> StreamingResponse:
    """Stream events and `[DONE]`; an error before the first event gets its own HTTP status."""
    first = await cancel_on_disconnect(request, anext(events))
    return StreamingResponse(
        _event_stream(first, events), media_type="text/event-stream", headers={"Cache-Control": "no-cache", **headers}
    )


async def cancel_on_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, and cancel it as soon as the client disconnects."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=0.1))[0]:
            if await request.is_disconnected():
                log.info("client disconnected")
                break
        return await task if task.done() else await _cancel(task)
    finally:
        task.cancel()


async def _cancel(task: "asyncio.Future[T]") -> T:
    task.cancel()
    await asyncio.wait({task})
    raise bad_request("the client closed the connection", param=None, code="client_closed_request")


async def _event_stream(first: dict[str, Any], events: AsyncGenerator[dict[str, Any], None]) -> AsyncIterator[str]:
    async with aclosing(events):
        yield format_event(first)
        try:
            async for item in events:
                yield format_event(item)
        except Exception as error:
            answer = to_api_error(error)
            metrics.failed.labels(answer.code).inc()
            if answer.code == "internal_error":  # the engine has logged its own errors
                log.exception("stream failed")
            yield format_event(answer.body)
            return
        yield "data: [DONE]\n\n"


def format_event(value: dict[str, Any]) -> str:
    """One event in wire format."""
    return f"data: {dump_one_line(value)}\n\n"


def dump_one_line(value: Any) -> str:  # noqa: ANN401 - JSON
    """JSON on one line for every reader: some clients split lines at more characters than `

    ` and `\r`."""
    return json.dumps(value, ensure_ascii=False).translate(LINE_ENDS)
