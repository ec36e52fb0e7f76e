"""SQLite connection: one file, write-ahead log, every commit on disk before it is confirmed."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio.to_thread

from server.files import make_private_file, make_private_folder
from server.store.base import BadStore, Unavailable
from server.store.sqlite.schema import SCHEMA, SINCE_5, VERSION

T = TypeVar("T")


class Connection:
    """The file, one transaction at a time."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            make_private_folder(path.parent)
            make_private_file(path)  # SQLite's companion files get the same mode
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        except (OSError, sqlite3.Error) as error:
            raise BadStore(f"cannot open {str(path)!r}: {error}; choose another --data-dir") from error
        try:
            self._prepare(path)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: Path) -> None:
        try:
            found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if found > VERSION:
                raise BadStore(
                    f"{str(path)!r} was written by a newer version of Tiller; update, or choose another --data-dir"
                )
            self._db.executescript(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON;" + SCHEMA
            )
            self._db.execute("BEGIN IMMEDIATE")  # two processes may migrate a file at once
            if "owner" not in [row[1] for row in self._db.execute("PRAGMA table_info(shares)")]:
                for change in SINCE_5:
                    self._db.execute(change)
            self._db.execute(f"PRAGMA user_version={VERSION}")
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise BadStore(f"cannot use {str(path)!r}: {error}; choose another --data-dir") from error

    async def check(self) -> None:
        """Run a query, unless another one holds the lock."""

        def query() -> None:
            if self._lock.acquire(timeout=0.1):
                try:
                    self._db.execute("SELECT 1 FROM settings LIMIT 1").fetchone()
                finally:
                    self._lock.release()

        await self._in_thread(query)

    async def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def in_transaction() -> T:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    result = work(self._db)
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
                return result

        return await self._in_thread(in_transaction)

    async def _checkpoint(self) -> None:
        """Truncate the write-ahead log, which still contains deleted data."""

        def empty() -> None:
            with self._lock:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        await self._in_thread(empty)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(work)
        except sqlite3.OperationalError as error:  # a full disk, a missing file, or another process' lock
            raise Unavailable(f"the store's file cannot be used: {error}") from error
