"""The default store: one SQLite file, write-ahead log, every commit on disk before it is confirmed."""

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio.to_thread

from server.store.store import BadStore, Conflict
from steering.spec import Preset

T = TypeVar("T")
SCHEMA = """
CREATE TABLE IF NOT EXISTS presets (id TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
VERSION = 1


class SqliteStore:
    """Correct for one server process; a second process may read and write beside it, too."""

    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
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
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + SCHEMA)
            self._db.execute(f"PRAGMA user_version={VERSION}")
        except sqlite3.Error as error:
            raise BadStore(f"cannot use {str(path)!r}: {error}; choose another --data-dir") from error

    async def presets(self) -> list[Preset]:
        """All saved presets, in the order of their names."""
        rows = await self._run(lambda db: db.execute("SELECT body FROM presets").fetchall())
        return sorted((Preset.model_validate_json(body) for (body,) in rows), key=lambda p: p.name.lower())

    async def preset(self, preset_id: str) -> Preset | None:
        """One saved preset."""
        row = await self._run(lambda db: db.execute("SELECT body FROM presets WHERE id = ?", (preset_id,)).fetchone())
        return Preset.model_validate_json(row[0]) if row else None

    async def save_preset(self, preset: Preset, *, based_on: int | None = None) -> Preset:
        """Create or replace in one transaction. Raises Conflict if `based_on` is not the version held."""

        def save(db: sqlite3.Connection) -> Preset:
            row = db.execute("SELECT version FROM presets WHERE id = ?", (preset.id,)).fetchone()
            held = row[0] if row else 0
            if based_on is not None and based_on != held:
                raise Conflict(f"preset {preset.id!r} is at version {held}, not {based_on}")
            saved = preset.model_copy(update={"version": held + 1, "updated": int(time.time()), "readonly": False})
            db.execute("REPLACE INTO presets VALUES (?, ?, ?)", (saved.id, saved.version, saved.model_dump_json()))
            return saved

        return await self._run(save)

    async def delete_preset(self, preset_id: str) -> bool:
        """Forget a preset; whether there was one."""
        return await self._run(lambda db: db.execute("DELETE FROM presets WHERE id = ?", (preset_id,)).rowcount > 0)

    async def setting(self, key: str) -> str | None:
        """A remembered setting."""
        row = await self._run(lambda db: db.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone())
        return row[0] if row else None

    async def set_setting(self, key: str, value: str) -> None:
        """Remember a setting."""
        await self._run(lambda db: db.execute("REPLACE INTO settings VALUES (?, ?)", (key, value)))

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
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
                return result

        return await anyio.to_thread.run_sync(in_transaction)
