"""`tiller doctor`: check each thing that a server needs, as the server does; leaves nothing behind."""

import asyncio
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.text import Text

from server.cli.options import Bundle_, settings_from_options
from server.cli.terminal import TerminalConsole
from server.engines.transformers.engine import TransformersEngine
from server.safety.policy import Policy
from server.settings import Settings
from server.store.factory import open_store
from server.telemetry import logging
from steering.catalogue.bundle import Bundle
from steering.safety.probe import Probe

console = TerminalConsole()


def doctor(
    bundle: Bundle_ = None,
    port: Annotated[int | None, typer.Option(envvar="TILLER_PORT")] = None,
    data_dir: Annotated[Path | None, typer.Option(envvar="TILLER_DATA_DIR")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
) -> None:
    """Check what the server needs; exit with 1 if something is missing."""
    settings = settings_from_options(bundle=bundle, port=port, data_dir=data_dir, config=config)
    logging.configure_command_logging()
    results = [_check(name, partial(check, settings)) for name, check in CHECKS.items()]
    raise typer.Exit(0 if all(results) else 1)


def _check(name: str, check: Callable[[], str]) -> bool:
    try:
        told = Text.assemble(("ok", "green"), f"       {name}: {check()}")
    except (OSError, ValueError, ImportError) as error:
        console.print(Text.assemble(("problem", "red"), f"  {name}: {error}"), soft_wrap=True)
        return False
    console.print(told, soft_wrap=True)
    return True


def _python(_: Settings) -> str:
    return sys.version.split()[0]


def _torch(_: Settings) -> str:
    return f"{torch.__version__}, {'CUDA' if torch.cuda.is_available() else 'CPU'}"


def _bundle(settings: Settings) -> str:
    opened = Bundle.open(settings.bundle)
    return f"{opened.info.name} at {settings.bundle}, {opened.sae.d_sae} features, {len(opened.presets)} presets"


def _model(settings: Settings) -> str:
    opened = Bundle.open(settings.bundle)
    if not settings.model and opened.info.package:
        opened.info.package.verify()
    engine = TransformersEngine.load(
        settings.model or opened.model_path, hooks=[opened.info.hook], device=settings.device
    )
    asyncio.run(engine.close())
    return f"loads, context {engine.max_model_len} tokens; the tap at {opened.info.hook} moves the stream"


def _data(settings: Settings) -> str:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    probe = settings.data_dir / ".probe"
    probe.write_text("")
    probe.unlink()
    return f"{settings.data_dir} can be written"


def _store(settings: Settings) -> str:
    async def check() -> str:
        opened = open_store(settings)
        try:
            await opened.check()
        finally:
            await opened.close()
        return f"{opened.name} answers"

    return asyncio.run(check())


def _policy(settings: Settings) -> str:
    found = Policy.load(settings.policy)
    return f"{settings.policy or 'the default policy'}, {len(found.limit)} limits"


def _guards(settings: Settings) -> str:
    probe = Probe.load(settings.probe) if settings.probe else None
    return f"a probe at {probe.hook}" if probe else "no probe"


def _port(settings: Settings) -> str:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((settings.host, settings.port))
    return f"{settings.port} is free"


CHECKS = {
    "python": _python,
    "torch": _torch,
    "bundle": _bundle,
    "model": _model,
    "data": _data,
    "store": _store,
    "policy": _policy,
    "guards": _guards,
    "port": _port,
}
