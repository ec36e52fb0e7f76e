"""Presets in SQLite."""

import sqlite3

from server.store import write_rules
from server.store.models import Restored
from server.store.sqlite.connection import Connection
from steering.spec import Preset


class Presets(Connection):
    """A row a preset."""

    async def presets(self) -> list[Preset]:
        """All saved presets, by name."""
        rows = await self._run(lambda db: db.execute("SELECT body FROM presets").fetchall())
        return write_rules.sorted_presets(Preset.model_validate_json(body) for (body,) in rows)

    async def preset(self, preset_id: str, tenant: str = "") -> Preset | None:
        """One saved preset of a tenant."""
        place = (write_rules.place_of(preset_id, tenant),)
        row = await self._run(lambda db: db.execute("SELECT body FROM presets WHERE id = ?", place).fetchone())
        return Preset.model_validate_json(row[0]) if row else None

    async def save_preset(self, preset: Preset, *, based_on: int | None = None) -> Preset:
        """Create or replace in one transaction. Raises Conflict if `based_on` is not the stored version."""

        def save(db: sqlite3.Connection) -> Preset:
            place = write_rules.place_of(preset.id, preset.tenant)
            row = db.execute("SELECT body FROM presets WHERE id = ?", (place,)).fetchone()
            held = Preset.model_validate_json(row[0]) if row else None
            saved = write_rules.saved_preset(held, preset, based_on=based_on)
            put_preset(db, saved)
            return saved

        return await self._run(save)

    async def delete_preset(self, preset_id: str, tenant: str = "", *, seen: Preset | None = None) -> bool:
        """Delete a preset, if it still has the owner of the one that was `seen`; whether it existed."""

        def delete(db: sqlite3.Connection) -> bool:
            place = (write_rules.place_of(preset_id, tenant),)
            row = db.execute("SELECT body FROM presets WHERE id = ?", place).fetchone()
            if not row or (seen and not write_rules.is_owned(row[0], seen.tenant, seen.owner)):
                return False
            return db.execute("DELETE FROM presets WHERE id = ?", place).rowcount > 0

        return await self._run(delete)


def put_preset(db: sqlite3.Connection, preset: Preset) -> None:
    """Write a preset as it is."""
    place = write_rules.place_of(preset.id, preset.tenant)
    db.execute("REPLACE INTO presets VALUES (?, ?, ?)", (place, preset.version, preset.model_dump_json()))


def restore_preset(db: sqlite3.Connection, preset: Preset) -> Restored:
    """Write an imported preset."""
    place = (write_rules.place_of(preset.id, preset.tenant),)
    row = db.execute("SELECT body FROM presets WHERE id = ?", place).fetchone()
    now, result = write_rules.restored_preset(Preset.model_validate_json(row[0]) if row else None, preset)
    put_preset(db, now)
    return result
