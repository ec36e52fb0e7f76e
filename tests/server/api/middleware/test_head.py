"""HEAD: what GET answers, without the body."""

import asyncio

import pytest

from server.api.middleware.head import answer_head

GETS = ["/health", "/livez", "/v1/models", "/v1/presets", "/v1/features?q=red", "/openapi.json", "/version"]


@pytest.mark.parametrize("path", GETS)
def test_each_get_is_a_head_too(http, path):
    get, head = http.get(path), http.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers["content-length"] == get.headers["content-length"]
    assert head.headers["x-request-id"]


def test_what_has_no_get_has_no_head(http):
    refused = http.head("/v1/chat/completions")
    assert (refused.status_code, refused.content) == (405, b"")
    assert "POST" in refused.headers["allow"]
    assert http.head("/v1/nowhere").status_code == 404


def test_the_connection_serves_the_next_request(http):
    assert [http.head("/v1/models").status_code for _ in range(3)] == [200] * 3
    assert http.get("/v1/models").json()["data"]


async def test_a_stream_without_an_end_is_left_after_its_headers():
    sent, closed = [], asyncio.Event()

    async def endless(scope, receive, send):
        assert scope["method"] == "GET"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b"data: 2\n\n", "more_body": False})
        closed.set()

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await answer_head(endless, {"type": "http", "method": "HEAD", "path": "/"}, receive, send)
    assert closed.is_set()
    assert [m.get("body") for m in sent] == [None, b""]
