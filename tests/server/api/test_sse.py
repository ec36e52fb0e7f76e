"""Server-sent events: what a stream sends while it waits, and what becomes of errors and of a client that leaves."""

import asyncio

import pytest

from server.api import sse
from server.errors import ApiError


class Client:
    """A request whose client may leave."""

    def __init__(self, *, stays=True):
        self.stays = stays

    async def is_disconnected(self):
        return not self.stays


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sse, "PATIENCE", 0.15)
    monkeypatch.setattr(sse, "QUIET", 0.05)


async def body(response):
    return [part async for part in response.body_iterator]


async def events(*items, before=None):
    if before:
        await before.wait()
    for item in items:
        if isinstance(item, Exception):
            raise item
        yield item


async def test_events_come_with_headers_that_no_proxy_buffers():
    response = await sse.sse_response(Client(), events({"a": 1}, {"a": 2}), {"X-Tiller-Steered": "1"})
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-tiller-steered"] == "1"
    assert await body(response) == ['data: {"a": 1}\n\n', 'data: {"a": 2}\n\n', "data: [DONE]\n\n"]


async def test_an_error_at_once_is_the_responses_own():
    with pytest.raises(ApiError, match="too long"):
        await sse.sse_response(Client(), events(ApiError(400, "too long", code="x")), {})


async def test_a_stream_that_waits_in_the_queue_sends_comments_and_then_its_events():
    turn = asyncio.Event()
    response = await sse.sse_response(Client(), events({"a": 1}, before=turn), {})
    parts = aiter(response.body_iterator)
    assert [await anext(parts) for _ in range(3)] == [sse.COMMENT] * 3
    assert sse.COMMENT.startswith(":")  # which readers of events skip
    turn.set()
    rest = [part async for part in parts]
    assert [part for part in rest if part != sse.COMMENT] == ['data: {"a": 1}\n\n', "data: [DONE]\n\n"]


async def test_an_error_after_the_stream_has_begun_is_an_event():
    turn = asyncio.Event()
    response = await sse.sse_response(Client(), events(ApiError(503, "lost", code="gone"), before=turn), {})
    turn.set()
    parts = [part for part in await body(response) if part != sse.COMMENT]
    assert len(parts) == 1
    assert '"gone"' in parts[0]


async def test_who_leaves_in_the_queue_leaves_nothing_running():
    closed = asyncio.Event()

    async def waiting():
        try:
            await asyncio.Event().wait()
            yield {}
        finally:
            closed.set()

    with pytest.raises(ApiError, match="closed the connection"):
        await sse.sse_response(Client(stays=False), waiting(), {})
    assert closed.is_set()

    closed.clear()
    response = await sse.sse_response(Client(), waiting(), {})
    parts = aiter(response.body_iterator)
    assert await anext(parts) == sse.COMMENT
    await parts.aclose()
    assert closed.is_set()
