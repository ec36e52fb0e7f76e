"""`tiller store …`: all that is kept, out into a file and in again, of SQLite and of Redis; works with a server and without one."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from server.cli.errors import exit_with_error
from server.cli.store_access import Data, Redis, with_store, write_audit
from server.store import backup as document
from server.store.base import BadStore, Conflict, Store
from server.store.models import Record
from steering.files import atomic_draft

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Back up the store, and restore it.")
console = Console()
File = Annotated[Path, typer.Argument(help="Lines of JSON.")]


@app.command()
def backup(file: File, data_dir: Data = None, redis_url: Redis = None) -> None:
    """Write everything that is kept, as of one moment, into a file that only you can read.

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
    replace: Annotated[bool, typer.Option("--replace", help="In place of what is there, which is lost.")] = False,
) -> None:
    """Bring a backup back, all or nothing; from SQLite to Redis and back, too. A running server has it at once.

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
        exit_with_error(
            f"{str(file)!r} holds something that cannot be kept; nothing was changed: {str(error).splitlines()[0]}"
        )
    except Conflict as error:
        exit_with_error(f"{error}; --replace puts the backup in the place of what is there")
    console.print(f"brought back {_count_records(records)}", soft_wrap=True)


async def _put(store: Store, data_dir: Path | None, records: list[Record], *, replace: bool) -> None:
    await store.put_records(records, replace=replace)
    if await store.keys():
        await write_audit(store, data_dir, "restored", records=dict(Counter(r.kind for r in records)), replace=replace)


def _write_privately(file: Path, text: str) -> None:
    """What people wrote stands in it: nobody else may read it, not even while it is written."""
    with atomic_draft(file, sync=True) as draft:
        draft.unlink(missing_ok=True)
        draft.touch(0o600)
        draft.write_text(text, encoding="utf-8")


def _count_records(records: list[Record]) -> str:
    counts = Counter(r.kind for r in records)
    return ", ".join(f"{n} {kind}{'s' * (n > 1 and kind != 'said')}" for kind, n in counts.items()) or "nothing"
