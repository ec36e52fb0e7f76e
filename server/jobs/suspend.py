"""A group of processes that stands still for a while, stopped where it holds no lock that others wait for. Knows signals and locks."""

import fcntl
import os
import signal
import sqlite3
import time
from pathlib import Path

PATIENCE = 2.0
"""Seconds to find a moment at which nothing is held; then somebody may try again."""
STATE, GROUP = 0, 2
RESTS = {"T", "t", "Z", "X", None}
"""States of what stands still or is gone."""


def stop(group: int, data_dir: Path) -> bool:
    """Stop a group; whether it stands still now, holding neither a database of `data_dir` nor the lock of its revisions."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if not _send(group, signal.SIGSTOP):
            return False
        time.sleep(0.02)
        while not (still := _stands(group)) and time.monotonic() < end:
            time.sleep(0.02)
        if still and _nothing_held(data_dir):
            return True
        _send(group, signal.SIGCONT)
        time.sleep(0.05)
    return False


def go_on(group: int) -> None:
    """Let it go on."""
    _send(group, signal.SIGCONT)


def end(group: int) -> None:
    """End it where it stands."""
    _send(group, signal.SIGKILL)


def end_orphan(note: Path, name: str) -> None:
    """End the group whose number is in a file, if it is still the one whose command line has this name.

    What stands still does not see that whoever began it is gone. Where there is no /proc, it is left alone.
    """
    try:
        group = int(note.read_text())
        if name.encode() in Path(f"/proc/{group}/cmdline").read_bytes():
            end(group)
    except (OSError, ValueError):
        pass  # it is gone


def _send(group: int, what: signal.Signals) -> bool:
    try:
        os.killpg(group, what)
    except ProcessLookupError:
        return False
    return True


def _stands(group: int) -> bool:
    """Whether all of a group stands still by now: on a busy machine one may still have to end a call, and takes a lock with it.

    Where there is no /proc, it is believed.
    """
    members = (p.parent for p in Path("/proc").glob("[0-9]*/stat") if _field(p, GROUP) == str(group))
    return all(_states(member) <= RESTS for member in members)


def _states(process: Path) -> set[str | None]:
    """Of its threads."""
    try:
        return {_field(thread / "stat", STATE) for thread in (process / "task").iterdir()}
    except OSError:
        return set()  # it is gone


def _field(stat: Path, number: int) -> str | None:
    """Of what /proc says of a process or thread, counted from behind its name, which may have spaces; None if it is gone."""
    try:
        return stat.read_text().rpartition(")")[2].split()[number]
    except OSError:
        return None


def _nothing_held(data_dir: Path) -> bool:
    return all(map(_writable, data_dir.glob("*.db"))) and all(map(_unlocked, data_dir.glob("revisions/*/.lock")))


def _writable(database: Path) -> bool:
    try:
        db = sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)
    except sqlite3.Error:
        return True  # none that anybody could hold
    try:
        db.execute("BEGIN IMMEDIATE")
        db.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    finally:
        db.close()
    return True


def _unlocked(lock: Path) -> bool:
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
