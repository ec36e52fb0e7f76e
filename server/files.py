"""Private files and folders: modes that keep other users of the machine out."""

import os
import stat
from contextlib import suppress
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Have a folder that only we can enter, made now or long ago; one that is another's, or everybody's as /tmp is, stays as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _restrict_mode(folder, 0o700)


def make_private_file(file: Path) -> None:
    """Have a file that only we can read. One that is there is not opened: to close it would let go of SQLite's locks."""
    if not file.exists():
        file.touch(0o600)
    _restrict_mode(file, 0o600)


def _restrict_mode(place: Path, mode: int) -> None:
    now = place.stat()
    if now.st_uid == os.geteuid() and not now.st_mode & stat.S_ISVTX and now.st_mode & 0o077:
        place.chmod(mode)


def keep_private(folder: Path) -> None:
    """Let this process create files for its own user only, whatever the umask was, and `folder` be entered by it only."""
    os.umask(0o077)
    with suppress(OSError):  # whoever needs the folder says what is wrong with it
        make_private_folder(folder)
