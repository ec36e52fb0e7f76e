"""Files: atomic writes, where a reader sees either the old file or the new one, complete, also after `kill -9`; and
checksums.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_draft(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield the path of a draft beside `path`; it replaces `path` when the block ends, and is deleted if the block
    fails.

    With `sync` the draft is flushed to the disk first, so that one of the two files also survives a loss of power.
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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
