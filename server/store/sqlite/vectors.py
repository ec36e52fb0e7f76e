"""Vectors in SQLite."""

import sqlite3

from server.store import write_rules
from server.store.sqlite.connection import Connection
from steering.spec import Vector


class Vectors(Connection):
    """A row a vector."""

    async def vectors(self, user: str, model: str) -> list[Vector]:
        """A user's vectors for a model, by name."""
        sql = "SELECT body FROM vectors WHERE user = ? AND model = ? ORDER BY name"
        rows = await self._run(lambda db: db.execute(sql, (user, model)).fetchall())
        return [Vector.model_validate_json(body) for (body,) in rows]

    async def vector(self, user: str, model: str, name: str) -> Vector | None:
        """One vector of this user."""
        sql = "SELECT body FROM vectors WHERE user = ? AND model = ? AND name = ?"
        row = await self._run(lambda db: db.execute(sql, (user, model, name)).fetchone())
        return Vector.model_validate_json(row[0]) if row else None

    async def save_vector(self, user: str, model: str, vector: Vector, *, replace: bool, most: int) -> None:
        """Save a vector in one transaction. Raises Conflict if the name exists and `replace` is not
        set, or if there are `most` already."""

        def save(db: sqlite3.Connection) -> None:
            names = [n for (n,) in db.execute("SELECT name FROM vectors WHERE user = ? AND model = ?", (user, model))]
            write_rules.check_vector(names, user, vector, replace=replace, most=most)
            row = (user, model, vector.name, vector.model_dump_json())
            db.execute("REPLACE INTO vectors VALUES (?, ?, ?, ?)", row)

        await self._run(save)

    async def delete_vector(self, user: str, model: str, name: str) -> bool:
        """Delete a vector; whether it existed."""
        sql = "DELETE FROM vectors WHERE user = ? AND model = ? AND name = ?"
        return await self._run(lambda db: db.execute(sql, (user, model, name)).rowcount > 0)
