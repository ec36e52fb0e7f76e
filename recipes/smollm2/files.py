"""Atomic files, and the JSON records of finished stages."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

Record = dict[str, Any]


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Let `fill` write a file; it appears under its name when it is whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("wb") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def write_json(path: Path, value: object) -> None:
    """Write one JSON document."""
    write(path, lambda file: file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()))


def write_lines(path: Path, rows: list[Record]) -> None:
    """Write one JSON document a line."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write(path, lambda file: file.write(text.encode()))


def read_lines(path: Path) -> Iterator[Record]:
    """What `write_lines` wrote."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def record_of(out: Path, stage: str) -> Record | None:
    """What a finished stage recorded; None if it is not finished."""
    path = out / "records" / f"{stage}.json"
    return json.loads(path.read_text()) if path.exists() else None


def finish(out: Path, stage: str, record: Record) -> None:
    """Record a stage's figures; from now on it counts as finished."""
    write_json(out / "records" / f"{stage}.json", record)
    say(f"{stage}: finished")


def say(text: str) -> None:
    """One line of the log, with the time."""
    os.write(1, f"{time.strftime('%H:%M:%S')} {text}\n".encode())
