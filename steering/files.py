"""Files: atomic writes, where a reader sees either the old file or the new one, complete, also after `kill -9`; checksums;
and names that others give, which must not lead out of a folder.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from steering.errors import SteeringError

NAME = r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,127}$"
"""Name of a folder or file: no separators or control characters, and no dot first."""


def path_below(folder: Path, name: str) -> Path:
    """Return the path of a name below a folder, such as `revisions/r1/sae.safetensors`. Raises SteeringError for a name
    that leads elsewhere.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise SteeringError(f"{name!r} is no name below {str(folder)!r}")
    return folder.joinpath(*parts)


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
