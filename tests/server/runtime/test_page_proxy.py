"""Page proxy to a Unix socket: bodies, headers, streams and disconnects as with a direct request."""

import asyncio
import threading
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, StreamingResponse

from server.runtime.page_proxy import PageProxy
from tests.support.waiting import until

left = threading.Event()
page = FastAPI()


@page.api_route("/echo/{rest:path}", methods=["GET", "POST"])
async def echo(request: Request) -> JSONResponse:
    told = {"path": request.scope["raw_path"].decode(), "query": str(request.query_params)}
    told |= {"body": (await request.body()).decode(), "host": request.headers["host"]}
    return JSONResponse(told, 418, {"X-Said": "yes", "Set-Cookie": "a=b"})


@page.get("/stream")
async def stream() -> StreamingResponse:
    async def words():
        try:
            while True:
                yield b"word "
                await asyncio.sleep(0.01)
        finally:
            left.set()

    return StreamingResponse(words())


@pytest.fixture
def address(tmp_path):
    forward = PageProxy(tmp_path / "page")

    @asynccontextmanager
    async def lifespan(_):
        yield
        await forward.close()

    front = FastAPI(lifespan=lifespan)
    front.mount("/", forward)
    listening = {"uds": str(tmp_path / "page")}, {"port": 0}
    servers = [
        uvicorn.Server(uvicorn.Config(app, log_level="error", **where))
        for app, where in zip((page, front), listening, strict=True)
    ]
    threads = [threading.Thread(target=lambda s=s: asyncio.run(s.serve()), daemon=True) for s in servers]
    for thread in threads:
        thread.start()
    until(lambda: all(s.started for s in servers))
    yield f"http://127.0.0.1:{servers[1].servers[0].sockets[0].getsockname()[1]}", threads[0], servers[0]
    for server, thread in zip(servers, threads, strict=True):
        server.should_exit = True
        thread.join(120)


def test_a_request_and_its_answer_pass_as_they_are(address):
    place, *_ = address
    answer = httpx.post(f"{place}/echo/a%2Fb?q=%C3%A4&q=2", content="text", headers={"Host": "tiller.example"})
    told = {"path": "/echo/a%2Fb", "query": "q=%C3%A4&q=2", "body": "text", "host": "tiller.example"}
    assert (answer.status_code, answer.json()) == (418, told)
    assert (answer.headers["x-said"], answer.headers["set-cookie"]) == ("yes", "a=b")
    assert answer.headers.get_list("content-length") == [str(len(answer.content))]


def test_who_leaves_a_stream_leaves_it_behind_the_socket_too(address):
    place, *_ = address
    left.clear()
    with httpx.stream("GET", f"{place}/stream") as answer:
        words = answer.iter_raw()  # one that nobody holds closes the stream at once
        assert next(words).startswith(b"word")
        assert not left.is_set()
    until(left.is_set)


def test_without_a_page_it_says_so(address):
    place, thread, behind = address
    assert httpx.get(f"{place}/echo/").status_code == 418
    behind.should_exit = True
    thread.join(120)  # who asks on and on meanwhile can keep it up: uvicorn lets what it has just accepted live
    assert not thread.is_alive()
    assert httpx.get(f"{place}/echo/").status_code == 503
    assert "not there now" in httpx.get(f"{place}/echo/").text
