"""Edits of features in SQLite."""

import sqlite3
import uuid
from collections.abc import Mapping
from typing import Any

from server.store import write_rules
from server.store.base import edits_setting
from server.store.sqlite.connection import Connection
from steering.catalogue.feature_edits import FeatureEdit


class FeatureEdits(Connection):
    """A row a feature."""

    async def feature_edits(self, bundle: str) -> dict[int, FeatureEdit]:
        """Edits of a bundle's features, by number."""
        sql = "SELECT number, body FROM feature_edits WHERE bundle = ?"
        rows = await self._run(lambda db: db.execute(sql, (bundle,)).fetchall())
        return {number: FeatureEdit.model_validate_json(body) for number, body in rows}

    async def edit_feature(
        self, bundle: str, number: int, changes: Mapping[str, Any], *, by: str | None
    ) -> FeatureEdit:
        """Edit a feature in one transaction; an empty edit is deleted."""

        def change(db: sqlite3.Connection) -> FeatureEdit:
            sql = "SELECT body FROM feature_edits WHERE bundle = ? AND number = ?"
            row = db.execute(sql, (bundle, number)).fetchone()
            edit = write_rules.edited(FeatureEdit.model_validate_json(row[0]) if row else None, changes, by=by)
            mark_edits(db, bundle)
            if edit.empty:
                db.execute("DELETE FROM feature_edits WHERE bundle = ? AND number = ?", (bundle, number))
            else:
                db.execute("REPLACE INTO feature_edits VALUES (?, ?, ?)", (bundle, number, edit.model_dump_json()))
            return edit

        return await self._run(change)


def mark_edits(db: sqlite3.Connection, bundle: str) -> None:
    """Change `edits_setting(bundle)`."""
    db.execute("REPLACE INTO settings VALUES (?, ?)", (edits_setting(bundle), uuid.uuid4().hex))
