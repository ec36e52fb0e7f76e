"""All data of one user in SQLite: export, import and erasure."""

import sqlite3
from collections.abc import Mapping

from server.store import write_rules
from server.store.models import Restored, UserData
from server.store.sqlite.connection import Connection
from server.store.sqlite.feature_edits import mark_edits
from server.store.sqlite.presets import restore_preset
from server.store.sqlite.votes import add_votes, read_votes
from steering.catalogue.feature_edits import FeatureEdit
from steering.spec import Preset, Vector


class Users(Connection):
    """What spans several tables, each in one transaction."""

    async def user_data(self, user: str, model: str) -> UserData:
        """All presets of a model, and a user's data, as one snapshot."""

        def read(db: sqlite3.Connection) -> UserData:
            presets = [Preset.model_validate_json(b) for (b,) in db.execute("SELECT body FROM presets ORDER BY id")]
            sql = "SELECT number, body FROM feature_edits WHERE bundle = ?"
            edits = {n: FeatureEdit.model_validate_json(b) for n, b in db.execute(sql, (model,))}
            sql = "SELECT body FROM vectors WHERE user = ? AND model = ? ORDER BY name"
            vectors = [Vector.model_validate_json(b) for (b,) in db.execute(sql, (user, model))]
            return UserData(
                presets=tuple(p for p in presets if p.model == model),
                edits=write_rules.edits_by(edits, user),
                vectors=tuple(vectors),
                said=tuple(write_rules.group_votes(read_votes(db, user, model))),
            )

        return await self._run(read)

    async def restore(
        self, user: str, model: str, kept: UserData, *, replace: bool, votes: int, vectors: int
    ) -> dict[str, Restored]:
        """Write imported data in one transaction. Raises AlreadyExists and Conflict, and then writes nothing."""

        def write(db: sqlite3.Connection) -> dict[str, Restored]:
            done: dict[str, Restored] = {f"preset:{p.id}": restore_preset(db, p) for p in kept.presets}
            if kept.edits:
                mark_edits(db, model)
            for number, edit in kept.edits.items():
                key = {"bundle": model, "number": number}
                done[f"feature:{number}"] = _put(db, "feature_edits", key, edit.model_dump_json())
            for v in kept.vectors:
                key = {"user": user, "model": model, "name": v.name}
                done[f"vector:{v.name}"] = _put(db, "vectors", key, v.model_dump_json())
            write_rules.check_restored(done, replace=replace)
            whose = "WHERE user = ? AND model = ?"
            (n,) = db.execute(f"SELECT COUNT(*) FROM vectors {whose}", (user, model)).fetchone()
            write_rules.check_vectors(n, user, most=vectors)
            new = write_rules.missing_votes(kept.said, write_rules.group_votes(read_votes(db, user, model)))
            for said in new:
                add_votes(db, user, model, said.kind, said.votes, most=votes)
            if kept.said:
                done["votes"] = "created" if new else "unchanged"
            return done

        return await self._run(write)

    async def erase(self, person: str, tenant: str, owner: str | None) -> dict[str, int]:
        """Delete all data of a user in one transaction, and truncate the write-ahead log."""

        def erase(db: sqlite3.Connection) -> dict[str, int]:
            whose = "user = :p OR substr(user, 1, length(:p) + 1) = :p || '/'"
            gone = {
                kind: db.execute(f"DELETE FROM {table} WHERE {whose}", {"p": person}).rowcount
                for kind, table in (
                    ("consents", "consents"),
                    ("texts", "live"),
                    ("votes", "votes"),
                    ("vectors", "vectors"),
                )
            }
            gone["presets"] = gone["shares"] = 0
            if owner is not None:
                theirs = [
                    (i,)
                    for i, body in db.execute("SELECT id, body FROM presets")
                    if write_rules.is_owned(body, tenant, owner)
                ]
                db.executemany("DELETE FROM presets WHERE id = ?", theirs)
                gone["presets"] = len(theirs)
                shares = "DELETE FROM shares WHERE tenant = ? AND owner = ?"
                gone["shares"] = db.execute(shares, (tenant, owner)).rowcount
            for bundle, number, body in db.execute("SELECT bundle, number, body FROM feature_edits").fetchall():
                edit = FeatureEdit.model_validate_json(body)
                if edit.by and write_rules.is_of(edit.by, person):
                    nobodys = edit.model_copy(update={"by": None}).model_dump_json()
                    db.execute("REPLACE INTO feature_edits VALUES (?, ?, ?)", (bundle, number, nobodys))
            return gone

        gone = await self._run(erase)
        await self._checkpoint()
        return gone


def _put(db: sqlite3.Connection, table: str, key: Mapping[str, str | int], body: str) -> Restored:
    where = " AND ".join(f"{name} = ?" for name in key)
    row = db.execute(f"SELECT body FROM {table} WHERE {where}", tuple(key.values())).fetchone()
    names = ", ".join([*key, "body"])
    db.execute(f"REPLACE INTO {table} ({names}) VALUES ({', '.join('?' * (len(key) + 1))})", (*key.values(), body))
    return write_rules.restored(row[0] if row else None, body)
