"""Store access for commands: open it, run one async function, close it."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from server.auth.audit_log import AuditLog
from server.auth.caller import OPERATOR
from server.cli.errors import exit_with_error
from server.cli.options import settings_from_options
from server.store.base import BadStore, Store
from server.store.factory import open_store

T = TypeVar("T")
Data = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="TILLER_DATA_DIR", help="Data directory with the store, if it is SQLite."),
]
Redis = Annotated[
    str | None, typer.Option("--redis-url", envvar="TILLER_REDIS_URL", help="Address of the store, if it is Redis.")
]


def with_store(data_dir: Path | None, redis_url: str | None, work: Callable[[Store], Awaitable[T]]) -> T:
    """Run a function with the store, and close it; a store error ends the command with its message."""
    options = {"data_dir": data_dir, "redis_url": redis_url}
    settings = settings_from_options(**options)

    async def run() -> T:
        store = open_store(settings)
        try:
            await store.check()
            return await work(store)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except BadStore as error:
        exit_with_error(str(error))


async def write_audit(store: Store, data_dir: Path | None, act: str, **about: Any) -> None:  # noqa: ANN401 - JSON
    """Write an audit-log entry for an action at this machine's command line, which needs no key."""
    by = {"from": "command line", "uid": os.getuid()}
    try:
        await AuditLog(settings_from_options(data_dir=data_dir).data_dir).write(store, OPERATOR, act, by=by, **about)
    except OSError as error:
        exit_with_error(f"done, but the audit log could not be written: {error}")
