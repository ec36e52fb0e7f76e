"""What streams over HTTP: events on the wire, several sources in one, and a client that may leave. Knows no models."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
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
"""What ends a line for Python and JSON lets stand."""


async def sse_response(request: Request, events: AsyncGenerator[dict[str, Any], None]) -> StreamingResponse:
    """Answer with events and `[DONE]`; what fails before the first of them fails with a status of its own."""
    first = await cancel_on_disconnect(request, anext(events))
    return StreamingResponse(
        _event_stream(first, events), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


async def cancel_on_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, but give it up as soon as the client is gone."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=0.1))[0]:
            if await request.is_disconnected():
                log.info("client left")
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
            if answer.code == "internal_error":  # the engine logged its own
                log.exception("stream broke")
            yield format_event(answer.body)
            return
        yield "data: [DONE]\n\n"


def format_event(value: dict[str, Any]) -> str:
    """One event as it stands on the wire."""
    return f"data: {dump_one_line(value)}\n\n"


def dump_one_line(value: Any) -> str:  # noqa: ANN401 - JSON
    """JSON that is one line for every reader: some take more characters than two for the end of one."""
    return json.dumps(value, ensure_ascii=False).translate(LINE_ENDS)
