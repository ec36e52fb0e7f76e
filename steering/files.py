"""Atomic writes: a reader finds the old file or the new one, whole, also after `kill -9`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_draft(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Give the path of a draft beside `path` to write to; it replaces `path` when the block ends, and not if it fails.

    With `sync` it is on the disk before it replaces anything, so that a loss of power leaves one of the two as well.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        yield draft
        if sync:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: str | bytes, *, sync: bool = False) -> None:
    """Replace a file's content in one step; text is written as UTF-8."""
    with atomic_draft(path, sync=sync) as draft:
        draft.write_bytes(data.encode() if isinstance(data, str) else data)
