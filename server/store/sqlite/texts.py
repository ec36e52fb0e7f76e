"""Consents and consented texts in SQLite."""

import sqlite3
import time

from server.store import write_rules
from server.store.models import LiveText
from server.store.sqlite.connection import Connection


class Texts(Connection):
    """A row a consent, a row a text."""

    async def consent(self, user: str) -> bool:
        """Whether a user consents to training on their conversations."""
        return bool(await self._run(lambda db: db.execute("SELECT 1 FROM consents WHERE user = ?", (user,)).fetchone()))

    async def set_consent(self, user: str, agreed: bool) -> None:
        """Set a user's consent; withdrawing it deletes their texts in the same transaction."""

        def change(db: sqlite3.Connection) -> None:
            if agreed:
                db.execute("INSERT OR IGNORE INTO consents VALUES (?, ?)", (user, time.time()))
            else:
                db.execute("DELETE FROM consents WHERE user = ?", (user,))
                db.execute("DELETE FROM live WHERE user = ?", (user,))

        await self._run(change)
        if not agreed:
            await self._checkpoint()

    async def keep_text(self, user: str, messages: str, *, most: int, seconds: float) -> bool:
        """Keep a conversation of a consenting user; the same transaction deletes their oldest and all expired ones."""
        now = time.time()

        def keep(db: sqlite3.Connection) -> bool:
            if not db.execute("SELECT 1 FROM consents WHERE user = ?", (user,)).fetchone():
                return False
            db.execute("DELETE FROM live WHERE expires < ?", (now,))
            row = (user, write_rules.digest(messages), messages, now, now + seconds)
            sql = "INSERT OR IGNORE INTO live (user, digest, messages, created, expires) VALUES (?, ?, ?, ?, ?)"
            kept = db.execute(sql, row).rowcount > 0
            newest = "SELECT id FROM live WHERE user = ? ORDER BY id DESC LIMIT ?"
            db.execute(f"DELETE FROM live WHERE user = ? AND id NOT IN ({newest})", (user, user, most))
            return kept

        return await self._run(keep)

    async def live_texts(self, user: str | None = None) -> list[LiveText]:
        """All texts, or one user's, that have not expired, oldest first."""
        sql = "SELECT user, messages, created FROM live WHERE expires >= ? AND user = COALESCE(?, user) ORDER BY id"
        rows = await self._run(lambda db: db.execute(sql, (time.time(), user)).fetchall())
        return [LiveText(*row) for row in rows]

    async def consented_texts(self) -> int:
        """Number of all users' texts that have not expired."""
        sql = "SELECT COUNT(*) FROM live WHERE expires >= ?"
        return await self._run(lambda db: db.execute(sql, (time.time(),)).fetchone()[0])

    async def forget_texts(self, user: str) -> int:
        """Delete a user's texts; returns how many."""
        gone = await self._run(lambda db: db.execute("DELETE FROM live WHERE user = ?", (user,)).rowcount)
        await self._checkpoint()
        return gone
