"""API keys in SQLite."""

import sqlite3

from server.store.models import Key
from server.store.sqlite.connection import Connection


class Keys(Connection):
    """A row a key."""

    async def keys(self) -> list[Key]:
        """All keys, oldest first."""
        rows = await self._run(lambda db: db.execute("SELECT body FROM keys ORDER BY created, id").fetchall())
        return [Key.model_validate_json(body) for (body,) in rows]

    async def add_key(self, key: Key) -> None:
        """Add a key."""
        await self._run(lambda db: put_key(db, key))

    async def delete_key(self, key_id: str) -> bool:
        """Delete a key; whether it existed."""
        return await self._run(lambda db: db.execute("DELETE FROM keys WHERE id = ?", (key_id,)).rowcount > 0)


def put_key(db: sqlite3.Connection, key: Key) -> None:
    """Insert a key."""
    db.execute("INSERT INTO keys VALUES (?, ?, ?)", (key.id, key.created, key.model_dump_json()))
