"""Private files and folders: permissions that exclude other users of the machine."""

import os
import stat
from contextlib import suppress
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Create a folder for this user only, or restrict an existing one; a folder of another user, or
    a shared one as /tmp, stays as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _restrict_mode(folder, 0o700)


def make_private_file(file: Path) -> None:
    """Create a file that only this user can read. An existing one is not opened: closing it would
    release SQLite's locks."""
    if not file.exists():
        file.touch(0o600)
    _restrict_mode(file, 0o600)


def _restrict_mode(place: Path, mode: int) -> None:
    now = place.stat()
    if now.st_uid == os.geteuid() and not now.st_mode & stat.S_ISVTX and now.st_mode & 0o077:
        place.chmod(mode)


def keep_private(folder: Path) -> None:
    """Create this process' files for its own user only, whatever the umask, and restrict `folder` to it."""
    os.umask(0o077)
    with suppress(OSError):  # the code that uses the folder reports its errors
        make_private_folder(folder)
