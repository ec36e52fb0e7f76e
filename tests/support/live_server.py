"""A real server with the small bundle, on a loopback port, in a thread."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from server.api.app import create_app
from server.runtime.startup import load_served_model
from server.serving.served_model import ServedModel
from server.settings import Settings
from tests.support import small_bundle
from tests.support.waiting import until


@contextmanager
def serving(bundle: Path, data_dir: Path, *, mount=None, **settings) -> Iterator[tuple[str, FastAPI]]:
    """Yield the server's address and its application; stop it at the end."""
    configured = Settings(bundle=bundle, data_dir=data_dir, device=small_bundle.DEVICE, **settings)

    async def opener() -> ServedModel:
        return await load_served_model(configured)

    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    app = create_app(configured, opener)
    if mount:
        app = mount(app)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, log_level="error", timeout_graceful_shutdown=1, ws="none")
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    try:
        until(lambda: app.state.served_model is not None or app.state.failure)
        assert not app.state.failure
        yield address, app
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()


@contextmanager
def asking(address: str, path: str, body: object, **headers: str) -> Iterator[None]:
    """Send a request without reading the answer, and disconnect at the end of the block."""
    host, port = address.removeprefix("http://").split(":")
    line = HTTPConnection(host, int(port))
    line.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
    try:
        yield
    finally:
        line.close()
