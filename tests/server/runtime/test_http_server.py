"""HTTP server: whose word it takes for where a request comes from."""

import asyncio
import threading

import httpx
import pytest
from fastapi import FastAPI, Request

from server.runtime.http_server import HttpServer
from server.settings import Settings
from tests.support.waiting import until


@pytest.mark.parametrize(
    ("trusted", "seen"), [((), "127.0.0.1"), (("127.0.0.0/8",), "203.0.113.9"), (("10.0.0.1",), "127.0.0.1")]
)
def test_only_a_trusted_proxy_says_where_a_request_comes_from(tmp_path, trusted, seen):
    app = FastAPI()
    app.state.settings, app.state.draining = Settings(data_dir=tmp_path, trusted_proxies=trusted), False

    @app.get("/where")
    async def where(request: Request) -> str:
        return request.client.host

    server = HttpServer(app, host="127.0.0.1", port=0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    answer = httpx.get(f"http://127.0.0.1:{port}/where", headers={"X-Forwarded-For": "203.0.113.9"})
    server.should_exit = True
    thread.join(30)
    assert answer.json() == seen
