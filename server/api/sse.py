"""Server-sent events: formatting, streaming responses, and cancellation when the client disconnects."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import structlog
from fastapi import Request
from fastapi.responses import StreamingResponse

from server.api.errors import to_api_error
from server.errors import bad_request
from server.telemetry import metrics

log = structlog.get_logger(__name__)
T = TypeVar("T")
UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Headers of a stream: neither browsers nor proxies (nginx reads the second) may hold it back."""
PATIENCE = 3.0
"""Seconds for which a first event, or an error in its place, may hold back the response's status."""
QUIET = 5.0
"""Seconds without a byte after which a comment is sent: proxies close connections that look idle."""
COMMENT = ": waiting\n\n"
LINE_ENDS = {ord(c): f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}
"""Escapes for characters that Python treats as line ends but JSON leaves as they are."""


async def sse_response(
    request: Request, events: AsyncGenerator[dict[str, Any], None], headers: Mapping[str, str]
) -> StreamingResponse:
    """Stream events and `[DONE]`; an error within the first `PATIENCE` seconds gets its own HTTP status.

    A first event that takes longer, as in the queue, is waited for inside the stream, with a comment every `QUIET` seconds.
    """
    first = asyncio.ensure_future(anext(events))
    if await _done_within(PATIENCE, request, first):
        await first
    return StreamingResponse(
        _event_stream(first, events), media_type="text/event-stream", headers={**UNBUFFERED, **headers}
    )


async def _done_within(seconds: float, request: Request, task: "asyncio.Future[T]") -> bool:
    """Whether a task is done in time. It is cancelled, and a 400 raised, if the client disconnects before."""
    end = time.monotonic() + seconds
    while not (await asyncio.wait({task}, timeout=0.1))[0]:
        if await request.is_disconnected():
            log.info("client disconnected")
            await _cancel(task)
        if time.monotonic() >= end:
            return False
    return True


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


async def _event_stream(
    first: "asyncio.Future[dict[str, Any]]", events: AsyncGenerator[dict[str, Any], None]
) -> AsyncIterator[str]:
    async with aclosing(events):
        try:
            async with _cancelled_at_end(first):
                while not (await asyncio.wait({first}, timeout=QUIET))[0]:
                    yield COMMENT
                yield format_event(await first)
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


@asynccontextmanager
async def _cancelled_at_end(task: "asyncio.Future[Any]") -> AsyncIterator[None]:
    """Leave no task behind: a generator that still runs in one cannot be closed."""
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def format_event(value: dict[str, Any]) -> str:
    """One event in wire format."""
    return f"data: {dump_one_line(value)}\n\n"


def dump_one_line(value: Any) -> str:  # noqa: ANN401 - JSON
    """JSON on one line for every reader: some clients split lines at more characters than LF and CR."""
    return json.dumps(value, ensure_ascii=False).translate(LINE_ENDS)
