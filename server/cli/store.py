"""`tiller store …`: back up and restore the store, SQLite or Redis, with or without a running server."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from server.cli.errors import exit_with_error
from server.cli.store_access import Data, Redis, with_store, write_audit
from server.cli.terminal import TerminalConsole
from server.store import backup as document
from server.store.base import BadStore, Conflict, Store
from server.store.models import Record
from steering.files import atomic_draft

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Back up the store, and restore it.")
console = TerminalConsole()
File = Annotated[Path, typer.Argument(help="A file with lines of JSON.")]


@app.command()
def backup(file: File, data_dir: Data = None, redis_url: Redis = None) -> None:
    """Write a snapshot of the whole store to a file that only you can read.

    Example: tiller store backup tiller-2027-01-31.jsonl
    """
    records = document.records_to_keep(with_store(data_dir, redis_url, lambda store: store.records()))
    try:
        _write_privately(file, "".join(f"{line}\n" for line in document.lines(records)))
    except OSError as error:
        exit_with_error(f"cannot write {str(file)!r}: {error}")
    console.print(f"{file}: {_count_records(records)}", soft_wrap=True)


@app.command()
def restore(
    file: File,
    data_dir: Data = None,
    redis_url: Redis = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the store's content, which is lost.")] = False,
) -> None:
    """Restore a backup, all or nothing; also from SQLite to Redis and back. A running server uses it at once.

    Example: tiller store restore tiller-2027-01-31.jsonl --redis-url redis://localhost:6379
    """
    try:
        records = document.read(file.read_text(encoding="utf-8"))
        with_store(data_dir, redis_url, lambda store: _put(store, data_dir, records, replace=replace))
    except (OSError, UnicodeDecodeError) as error:
        exit_with_error(f"cannot read {str(file)!r}: {error}")
    except BadStore as error:
        exit_with_error(f"{str(file)!r}: {error}")
    except (ValidationError, KeyError, TypeError) as error:
        exit_with_error(f"{str(file)!r} contains an invalid record; nothing was changed: {str(error).splitlines()[0]}")
    except Conflict as error:
        exit_with_error(f"{error}; --replace replaces the store's content with the backup")
    console.print(f"restored {_count_records(records)}", soft_wrap=True)


async def _put(store: Store, data_dir: Path | None, records: list[Record], *, replace: bool) -> None:
    await store.put_records(records, replace=replace)
    if await store.keys():
        await write_audit(store, data_dir, "restored", records=dict(Counter(r.kind for r in records)), replace=replace)


def _write_privately(file: Path, text: str) -> None:
    """Write a file that only this user can read, from the first byte on: it contains users' texts."""
    with atomic_draft(file, sync=True) as draft:
        draft.unlink(missing_ok=True)
        draft.touch(0o600)
        draft.write_text(text, encoding="utf-8")


def _count_records(records: list[Record]) -> str:
    counts = Counter(r.kind for r in records)
    return ", ".join(f"{n} {kind}{'s' * (n > 1 and kind != 'said')}" for kind, n in counts.items()) or "nothing"
