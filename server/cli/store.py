"""`tiller store …`: all that is kept, out into a file and in again, of SQLite and of Redis; works with a server and without one."""

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console

from server.cli.errors import fail
from server.cli.options import settings_of
from server.store import backup as document
from server.store.base import BadStore, Conflict, Record, Store
from server.store.factory import open_store

T = TypeVar("T")
app = typer.Typer(no_args_is_help=True, help="Back up all that is kept, and bring it back.")
console = Console()
Data = Annotated[
    Path | None, typer.Option("--data-dir", envvar="TILLER_DATA_DIR", help="Where the store is, if it is SQLite's.")
]
Redis = Annotated[
    str | None, typer.Option("--redis-url", envvar="TILLER_REDIS_URL", help="Where it is, if it is Redis.")
]
File = Annotated[Path, typer.Argument(help="Lines of JSON.")]


@app.command()
def backup(file: File, data_dir: Data = None, redis_url: Redis = None) -> None:
    """Write everything that is kept, as of one moment, into a file that only you can read.

    Example: tiller store backup tiller-2027-01-31.jsonl
    """
    records = document.kept(with_store(data_dir, redis_url, lambda store: store.records()))
    try:
        _write_privately(file, "".join(f"{line}\n" for line in document.lines(records)))
    except OSError as error:
        fail(f"cannot write {str(file)!r}: {error}")
    console.print(f"{file}: {_told(records)}", soft_wrap=True)


@app.command()
def restore(
    file: File,
    data_dir: Data = None,
    redis_url: Redis = None,
    replace: Annotated[bool, typer.Option("--replace", help="In place of what is there, which is lost.")] = False,
) -> None:
    """Bring a backup back, all or nothing; from SQLite to Redis and back, too. A running server has it at once.

    Example: tiller store restore tiller-2027-01-31.jsonl --redis-url redis://localhost:6379
    """
    try:
        records = document.read(file.read_text(encoding="utf-8"))
        with_store(data_dir, redis_url, lambda store: _put(store, data_dir, records, replace=replace))
    except (OSError, UnicodeDecodeError) as error:
        fail(f"cannot read {str(file)!r}: {error}")
    except BadStore as error:
        fail(f"{str(file)!r}: {error}")
    except (ValidationError, KeyError, TypeError) as error:
        fail(f"{str(file)!r} holds something that cannot be kept; nothing was changed: {str(error).splitlines()[0]}")
    except Conflict as error:
        fail(f"{error}; --replace puts the backup in the place of what is there")
    console.print(f"brought back {_told(records)}", soft_wrap=True)


def with_store(data_dir: Path | None, redis_url: str | None, work: Callable[[Store], Awaitable[T]]) -> T:
    """Do something with the store, and close it; what goes wrong is said in a sentence and ends the command."""
    given = {"data_dir": data_dir, "redis_url": redis_url}
    settings = settings_of(**given)

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
        fail(str(error))


async def deed(store: Store, data_dir: Path | None, act: str, **about: Any) -> None:  # noqa: ANN401 - JSON
    """Note in the audit log what somebody at this machine's command line has done; who may write there needs no key."""
    from server.auth.audit_log import Audit
    from server.auth.caller import OPERATOR

    by = {"from": "command line", "uid": os.getuid()}
    try:
        await Audit(settings_of(data_dir=data_dir).data_dir).note(store, OPERATOR, act, by=by, **about)
    except OSError as error:
        fail(f"done, but the audit log could not be written: {error}")


async def _put(store: Store, data_dir: Path | None, records: list[Record], *, replace: bool) -> None:
    await store.put_records(records, replace=replace)
    if await store.keys():
        await deed(store, data_dir, "restored", records=dict(Counter(r.kind for r in records)), replace=replace)


def _write_privately(file: Path, text: str) -> None:
    """What people wrote stands in it: nobody else may read it, not even while it is written."""
    draft = file.with_name(f".{file.name}.tmp")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(draft, file)


def _told(records: list[Record]) -> str:
    counts = Counter(r.kind for r in records)
    return ", ".join(f"{n} {kind}{'s' * (n > 1 and kind != 'said')}" for kind, n in counts.items()) or "nothing"
