"""Shares in SQLite."""

import sqlite3
import time

from server.store import write_rules
from server.store.models import Share
from server.store.sqlite.connection import Connection

SHARE = "id, key, content, created, expires, tenant, owner"
"""Columns, as the fields of `Share`."""


class Shares(Connection):
    """A row a share."""

    async def add_share(self, share: Share, *, most: int) -> None:
        """Save a share; the same transaction deletes expired ones. Raises Conflict if there are `most` already."""

        def add(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM shares WHERE expires < ?", (int(time.time()),))
            (n,) = db.execute("SELECT COUNT(*) FROM shares").fetchone()
            write_rules.check_shares(n, most=most)
            put_share(db, share)

        await self._run(add)

    async def share(self, share_id: str) -> Share | None:
        """A share that has not expired."""
        sql = f"SELECT {SHARE} FROM shares WHERE id = ? AND expires >= ?"
        row = await self._run(lambda db: db.execute(sql, (share_id, int(time.time()))).fetchone())
        return Share(*row) if row else None

    async def delete_share(self, share_id: str) -> bool:
        """Delete a share; whether it existed."""
        return await self._run(lambda db: db.execute("DELETE FROM shares WHERE id = ?", (share_id,)).rowcount > 0)


def put_share(db: sqlite3.Connection, share: Share) -> None:
    """Insert a share."""
    row = (share.id, share.key, share.content, share.created, share.expires, share.tenant, share.owner)
    db.execute(f"INSERT INTO shares ({SHARE}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
