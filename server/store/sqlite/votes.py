"""Votes in SQLite."""

import sqlite3
from collections.abc import Iterator, Sequence

from server.store import write_rules
from server.store.models import StoredVote
from server.store.sqlite.connection import Connection


class Votes(Connection):
    """A row a vote; those of one feedback have one number."""

    async def add_votes(self, user: str, model: str, kind: str, votes: Sequence[StoredVote], *, most: int) -> None:
        """Add the votes of one feedback, under one number, and delete the oldest above the limit."""
        await self._run(lambda db: add_votes(db, user, model, kind, votes, most=most))

    async def votes(self, user: str, model: str) -> list[StoredVote]:
        """A user's votes, oldest first."""
        sql = "SELECT subject, dose, liked, weight, created FROM votes WHERE user = ? AND model = ? ORDER BY id"
        return [StoredVote(*row) for row in await self._run(lambda db: db.execute(sql, (user, model)).fetchall())]

    async def drop_votes(self, user: str, model: str, *, last: bool) -> int:
        """Delete the votes of the last feedback, or all."""
        whose, who = "user = ? AND model = ?", (user, model)
        only = f" AND said = (SELECT MAX(said) FROM votes WHERE {whose})" if last else ""
        return await self._run(
            lambda db: db.execute(f"DELETE FROM votes WHERE {whose}{only}", who + (who if last else ())).rowcount
        )


def add_votes(
    db: sqlite3.Connection, user: str, model: str, kind: str, votes: Sequence[StoredVote], *, most: int
) -> None:
    """Add the votes of one feedback, under one number, and delete the oldest above the limit; -1 for none."""
    (said,) = db.execute("SELECT COALESCE(MAX(said), 0) + 1 FROM votes").fetchone()
    rows = [(user, model, said, kind, v.subject, v.dose, v.liked, v.weight, v.created) for v in votes]
    names = "user, model, said, kind, subject, dose, liked, weight, created"
    db.executemany(f"INSERT INTO votes ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    newest = "SELECT id FROM votes WHERE user = ? AND model = ? ORDER BY id DESC LIMIT ?"
    old = f"DELETE FROM votes WHERE user = ? AND model = ? AND id NOT IN ({newest})"
    db.execute(old, (user, model, user, model, most))


def read_votes(db: sqlite3.Connection, user: str, model: str) -> Iterator[write_rules.Given]:
    """A user's votes, oldest first."""
    names = "said, kind, subject, dose, liked, weight, created"
    rows = db.execute(f"SELECT {names} FROM votes WHERE user = ? AND model = ? ORDER BY id", (user, model))
    return ((row[0], row[1], StoredVote(*row[2:])) for row in rows)
