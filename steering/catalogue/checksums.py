"""SHA-256 checksums of files: computed when a bundle is sealed, verified when it is opened."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from steering.errors import BadBundle, SteeringError
from steering.files import path_below, sha256


def checksums(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the checksum of each file, by its path relative to `folder`."""
    return {f.relative_to(folder).as_posix(): sha256(f) for f in sorted(files)}


def verify(folder: Path, sums: Mapping[str, str]) -> None:
    """Raise BadBundle for a file that exists and does not match `sums`; a file unchanged since the last call is not
    read again.
    """
    for name, wanted in sums.items():
        try:
            path = path_below(folder, name)
        except SteeringError as error:
            raise BadBundle(f"bundle.json lists a file elsewhere: {error}") from error
        try:
            about = path.stat()
        except FileNotFoundError:
            continue  # reported where it is needed; a model may be stored elsewhere
        if _known(path, about.st_mtime_ns, about.st_size, about.st_ino) != wanted:
            raise BadBundle(
                f"{str(path)!r} is not the file that bundle.json lists: its SHA-256 differs. Download it again, or, "
                f"if you changed it yourself, run `tiller sae seal {folder}`"
            )


@lru_cache(maxsize=1024)
def _known(path: Path, mtime: int, size: int, inode: int) -> str:  # noqa: ARG001 - they are part of the cache key
    return sha256(path)
