"""Serve: one process or several replicas on one socket, with the page and the trainer process."""

import gc
import os
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from fastapi import FastAPI

from server.api.app import create_app
from server.runtime import trainer_process
from server.runtime.http_server import HttpServer
from server.runtime.replicas import Replicas, running_replicas
from server.runtime.startup import load_served_model
from server.serving.served_model import ServedModel
from server.settings import Settings
from server.telemetry import tracing
from steering.catalogue.bundle import Bundle
from ui.page import mount

STARTED = time.monotonic()


def serve_here(settings: Settings, listening: socket.socket, address: str) -> str | None:
    """Serve in this process until a signal; returns why the model could not be loaded, if so."""
    set_switch_interval()
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

    tracing.start(settings.otel_endpoint)
    application = mount(create_app(settings, lambda: load_and_freeze(settings)))
    server = HttpServer(application, drain_seconds=settings.drain_seconds)
    ready = partial(_print_ready, settings, address)
    threading.Thread(target=announce_when_loaded, args=(application, server, ready), daemon=True).start()
    with (
        trainer_process.run_trainer_process(settings) if settings.trainer else nullcontext(lambda: None) as end_trainer
    ):
        server.run_until_signal([listening], also=[end_trainer])
    tracing.stop()
    return application.state.failure


def serve_replicas(settings: Settings, listening: socket.socket, address: str) -> str | None:
    """Serve by several replicas, which forward the page to this process, until a signal.

    Gradio's sessions live in one process. Returns "" if the replicas failed to load; they have printed why.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

    with tempfile.TemporaryDirectory(prefix="tiller-") as folder:
        page, failed = Path(folder) / "page", threading.Event()
        server = HttpServer(mount(FastAPI()), uds=str(page))
        replicas = Replicas(settings, listening, page)

        def over(well: bool) -> None:
            if not well and not server.should_exit:  # it has said why
                failed.set()
                server.should_exit = True

        with (
            trainer_process.run_trainer_process(settings)
            if settings.trainer
            else nullcontext(lambda: None) as end_trainer,
            running_replicas(replicas, lambda: _print_ready(settings, address), over),
        ):
            server.run_until_signal(also=[end_trainer, replicas.stop_all])
    return "" if failed.is_set() else None


def set_switch_interval() -> None:
    """Switch between threads every 0.5 ms."""
    # The engine's thread and the event loop share one lock; waiting 5 ms for it would be half a step each time.
    sys.setswitchinterval(0.0005)


async def load_and_freeze(settings: Settings) -> ServedModel:
    """Load model, SAE and store; then leave them out of garbage collection."""
    served = await load_served_model(settings)
    gc.collect()
    gc.freeze()  # what is here now stays; looking through it for garbage would stop all replies for 0.1 s each time
    return served


def announce_when_loaded(application: FastAPI, server: HttpServer, ready: Callable[[], None]) -> None:
    """Say when the model is there; if it can't be, end."""
    while application.state.served_model is None:
        if application.state.failure or server.should_exit:
            server.should_exit = True
            return
        time.sleep(0.05)
    ready()


def _print_ready(settings: Settings, address: str) -> None:
    opened = Bundle.open(settings.bundle)
    model, preset = opened.info.name, next((p.id for p in opened.presets), None)
    curl = (
        f"curl {address}/v1/chat/completions -H 'Content-Type: application/json' -d "
        f'\'{{"model": "{model}{"@" + preset if preset else ""}", "messages": [{{"role": "user", "content": "Who are you?"}}]}}\''
    )
    took = f"{time.monotonic() - STARTED:.1f} s" + (f", {settings.workers} replicas" if settings.workers > 1 else "")
    sys.stdout.write(f"\nTiller is ready ({took})\n  page  {address}/\n  API   {address}/v1\n  try   {curl}\n\n")
    sys.stdout.flush()
    if settings.browser and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(address)
