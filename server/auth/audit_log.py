"""Audit log: a hash chain of who did what, one line per action; prompts are never in it.

Changing, removing or moving a line breaks the chain; truncation is detected by the head, which the
store keeps as well. Several processes of one machine can write to one file: each takes a lock and
appends to the last line.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.auth.caller import Caller
from server.store.base import Store, Unavailable

FILE = "audit.jsonl"
FIRST = "0" * 64
"""Previous hash of the first line."""
TAIL = 1 << 16
"""Bytes at the end of the file that are read to find the last line."""


class BrokenAuditLog(ValueError):
    """The chain is broken; the message names the line."""


@dataclass(frozen=True)
class Head:
    """The head of the log: the number of lines, and the last line's hash."""

    n: int = 0
    hash: str = FIRST

    def __str__(self) -> str:
        return f"{self.n} {self.hash}"

    @staticmethod
    def read(text: str | None) -> "Head | None":
        """Parse a stored head."""
        n, _, value = (text or "").partition(" ")
        return Head(int(n), value) if n.isdecimal() and len(value) == 64 else None


class AuditLog:
    """The audit log of one data directory."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE

    @property
    def head_setting(self) -> str:
        """Setting under which the store keeps the head: each machine has its own log."""
        place = f"{socket.gethostname()}:{self.file.resolve()}"
        return f"audit:{hashlib.sha256(place.encode()).hexdigest()[:16]}"

    async def write(self, store: Store, caller: Caller, act: str, **about: Any) -> None:  # noqa: ANN401 - JSON
        """Add an entry; it is on disk when this returns. Without keys callers are anonymous, and nothing is written."""
        if caller.owner is None:
            return
        who = {"tenant": caller.tenant, "owner": caller.owner, "key": caller.key, "role": caller.role}
        entry = {"at": round(time.time(), 3), "act": act, "who": who, **about}
        head = await asyncio.to_thread(self.append, entry)
        try:
            await store.set_setting(self.head_setting, str(head))
        except Unavailable:
            pass  # the next head is stored

    def append(self, entry: dict[str, Any]) -> Head:
        """Append a line after the last complete one."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        private = lambda path, flags: os.open(path, flags, 0o600)  # noqa: E731 - for its owner's eyes only
        with open(self.file, "a+b", opener=private) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            last = _last(file.fileno())
            line = {"n": last.n + 1, "before": last.hash, **entry}
            text = json.dumps(line, ensure_ascii=False, sort_keys=True)
            head = Head(last.n + 1, _hash(text))
            file.write(f"{text}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        return head

    def lines(self) -> Iterator[dict[str, Any]]:
        """All lines, as they are. Raises BrokenAuditLog for one that cannot be parsed."""
        if self.file.exists():
            with self.file.open(encoding="utf-8", errors="replace") as file:
                for n, text in enumerate(file, start=1):
                    try:
                        yield json.loads(text)
                    except (ValueError, RecursionError) as error:
                        raise BrokenAuditLog(f"line {n} cannot be read") from error

    def verify(self, kept: Head | None = None) -> Head:
        """The head, if every line follows from the one before and the stored head is among them.
        Raises BrokenAuditLog."""
        head, found = Head(), kept is None or kept == Head()
        if self.file.exists():
            for text in self.file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
                head = _next(head, text)
                found |= head == kept
        if kept and not found:
            raise BrokenAuditLog(
                f"the log ends at line {head.n}, and line {kept.n} was there: lines are missing or were rewritten"
            )
        return head


def _next(head: Head, text: str) -> Head:
    try:
        line = json.loads(text)
        follows = line["n"] == head.n + 1 and line["before"] == head.hash
    except (ValueError, KeyError, TypeError, RecursionError):
        follows = False
    if not follows:
        raise BrokenAuditLog(f"line {head.n + 1} does not follow from the one before")
    return Head(head.n + 1, _hash(text))


def _last(file: int) -> Head:
    size = os.fstat(file).st_size
    tail = os.pread(file, TAIL, max(0, size - TAIL)).decode("utf-8", "replace")
    rows = [row for row in tail.split("\n") if row]
    if not rows:
        return Head()
    if not tail.endswith("\n"):  # its writer was killed half-way
        os.ftruncate(file, size - len(rows[-1].encode()))
        rows = rows[:-1]
    return Head(int(json.loads(rows[-1])["n"]), _hash(rows[-1])) if rows else Head()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
