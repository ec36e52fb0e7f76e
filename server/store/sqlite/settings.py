"""Settings in SQLite."""

import asyncio
import sqlite3

from server.store.sqlite.connection import Connection


class Settings(Connection):
    """A row a setting."""

    async def setting(self, key: str) -> str | None:
        """A setting."""
        row = await self._run(lambda db: db.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone())
        return row[0] if row else None

    async def first_setting(self, key: str, value: str) -> str:
        """Set a setting unless it exists; returns the stored value."""

        def first(db: sqlite3.Connection) -> str:
            db.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (key, value))
            return db.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()[0]

        return await self._run(first)

    async def set_setting(self, key: str, value: str) -> None:
        """Set a setting."""
        await self._run(lambda db: db.execute("REPLACE INTO settings VALUES (?, ?)", (key, value)))

    async def changed(self, seconds: float) -> None:
        """Sleep: SQLite has no notifications, so other processes' changes are found by polling."""
        await asyncio.sleep(seconds)
