"""Backup records in SQLite."""

import json
import sqlite3
from collections.abc import Iterator, Sequence

from server.store import write_rules
from server.store.base import Conflict
from server.store.models import Key, Record, Share, StoredVote
from server.store.sqlite.connection import Connection
from server.store.sqlite.feature_edits import mark_edits
from server.store.sqlite.keys import put_key
from server.store.sqlite.presets import put_preset
from server.store.sqlite.schema import TABLES
from server.store.sqlite.shares import SHARE, put_share
from server.store.sqlite.votes import add_votes, read_votes
from steering.catalogue.feature_edits import FeatureEdit
from steering.spec import Preset, Vector


class Records(Connection):
    """All tables, as records."""

    async def records(self) -> list[Record]:
        """A snapshot of all records."""
        return await self._run(lambda db: list(_records(db)))

    async def put_records(self, records: Sequence[Record], *, replace: bool) -> None:
        """Replace the store's content by these records, in one transaction."""

        def put(db: sqlite3.Connection) -> None:
            if not replace and any(r.kind != "setting" for r in _records(db)):
                raise Conflict("the store is not empty")
            for table in TABLES:
                db.execute(f"DELETE FROM {table}")
            for record in records:
                _put_record(db, record)

        await self._run(put)


def _records(db: sqlite3.Connection) -> Iterator[Record]:
    for (body,) in db.execute("SELECT body FROM presets ORDER BY id"):
        yield Record("preset", json.loads(body))
    for key, value in db.execute("SELECT key, value FROM settings ORDER BY key"):
        yield Record("setting", {"key": key, "value": value})
    for user, since in db.execute("SELECT user, since FROM consents ORDER BY user"):
        yield Record("consent", {"user": user, "since": since})
    for user, messages, created, expires in db.execute("SELECT user, messages, created, expires FROM live ORDER BY id"):
        yield Record("text", {"user": user, "messages": messages, "created": created, "expires": expires})
    for user, model in db.execute("SELECT DISTINCT user, model FROM votes ORDER BY user, model").fetchall():
        for said in write_rules.group_votes(read_votes(db, user, model)):
            votes = [vars(v) for v in said.votes]
            yield Record("said", {"user": user, "model": model, "kind": said.kind, "votes": votes})
    for bundle, number, body in db.execute("SELECT * FROM feature_edits ORDER BY bundle, number"):
        yield Record("edit", {"bundle": bundle, "number": number, "edit": json.loads(body)})
    for user, model, body in db.execute("SELECT user, model, body FROM vectors ORDER BY user, model, name"):
        yield Record("vector", {"user": user, "model": model, "vector": json.loads(body)})
    for row in db.execute(f"SELECT {SHARE} FROM shares ORDER BY id"):
        yield Record("share", vars(Share(*row)))
    for (body,) in db.execute("SELECT body FROM keys ORDER BY created, id"):
        yield Record("key", json.loads(body))


def _put_record(db: sqlite3.Connection, record: Record) -> None:
    v = record.value
    match record.kind:
        case "preset":
            put_preset(db, Preset.model_validate(v))
        case "setting":
            db.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (v["key"], v["value"]))
        case "consent":
            db.execute("INSERT INTO consents VALUES (?, ?)", (v["user"], v["since"]))
        case "text":
            row = (v["user"], write_rules.digest(v["messages"]), v["messages"], v["created"], v["expires"])
            db.execute("INSERT INTO live (user, digest, messages, created, expires) VALUES (?, ?, ?, ?, ?)", row)
        case "said":
            votes = [StoredVote(**vote) for vote in v["votes"]]
            add_votes(db, v["user"], v["model"], v["kind"], votes, most=-1)
        case "edit":
            body = FeatureEdit.model_validate(v["edit"]).model_dump_json()
            db.execute("INSERT INTO feature_edits VALUES (?, ?, ?)", (v["bundle"], v["number"], body))
            mark_edits(db, v["bundle"])
        case "vector":
            vector = Vector.model_validate(v["vector"])
            row = (v["user"], v["model"], vector.name, vector.model_dump_json())
            db.execute("INSERT INTO vectors VALUES (?, ?, ?, ?)", row)
        case "share":
            put_share(db, Share(**v))
        case "key":
            put_key(db, Key.model_validate(v))
