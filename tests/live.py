"""A real server on a loopback port, in a thread, with the small bundle."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.choice import Tiller
from server.engines.transformers_engine import TransformersEngine
from server.policy import Policy
from server.settings import Settings
from server.store.opening import open_store
from server.swap import open_wanted, revisions_of
from server.watch import watch_of
from steering.catalogue import Catalogue
from tests import small


async def opened(settings: Settings) -> Tiller:
    """Engine, catalogue and store as `tiller serve` puts them together."""
    revisions, store = revisions_of(settings), open_store(settings)
    found = await open_wanted(revisions, store)
    engine = await asyncio.to_thread(
        TransformersEngine.load,
        found.model_path,
        hooks=[found.info.hook],
        scaling={found.info.hook: found.sae.scaling},
        device=small.DEVICE,
        live=settings.live,
        queue=settings.queue,
    )
    watch = await watch_of(settings, engine, found.info.hook)
    return Tiller(
        engine, Catalogue([found.to(engine.device)]), store, settings, revisions, Policy.read(settings.policy), watch
    )


@contextmanager
def serving(bundle: Path, data_dir: Path, *, mount=None, **settings) -> Iterator[tuple[str, FastAPI]]:
    """Yield the server's address and its application; stop it at the end."""
    configured = Settings(bundle=bundle, data_dir=data_dir, **settings)

    async def opener() -> Tiller:
        return await opened(configured)

    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    app = create_app(configured, opener)
    if mount:
        app = mount(app, api_base=f"{address}/v1")
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, log_level="error", timeout_graceful_shutdown=1, ws="none")
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    try:
        until(lambda: app.state.tiller is not None or app.state.failure)
        assert not app.state.failure
        yield address, app
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


def until(true, seconds: float = 20) -> None:
    """Wait for a state, not for a time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
