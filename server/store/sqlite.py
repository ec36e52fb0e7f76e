"""SQLite store, the default: one file, write-ahead log, every commit on disk before it is confirmed."""

import asyncio
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread

from server.files import make_private_file, make_private_folder
from server.store import write_rules
from server.store.base import BadStore, Conflict, Unavailable, edits_setting
from server.store.models import Key, LiveText, Record, Restored, Share, StoredVote, UserData
from steering.catalogue.feature_edits import FeatureEdit
from steering.spec import Preset, Vector

T = TypeVar("T")
SCHEMA = """
CREATE TABLE IF NOT EXISTS presets (id TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS consents (user TEXT PRIMARY KEY, since REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS live (
  id INTEGER PRIMARY KEY, user TEXT NOT NULL, digest TEXT NOT NULL, messages TEXT NOT NULL,
  created REAL NOT NULL, expires REAL NOT NULL, UNIQUE (user, digest)
) STRICT;
CREATE TABLE IF NOT EXISTS votes (
  id INTEGER PRIMARY KEY, user TEXT NOT NULL, model TEXT NOT NULL, said INTEGER NOT NULL, kind TEXT NOT NULL,
  subject TEXT NOT NULL, dose REAL NOT NULL, liked REAL NOT NULL, weight REAL NOT NULL, created REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS votes_of ON votes (user, model, id);
CREATE TABLE IF NOT EXISTS vectors (
  user TEXT NOT NULL, model TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (user, model, name)
) STRICT;
CREATE TABLE IF NOT EXISTS feature_edits (
  bundle TEXT NOT NULL, number INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (bundle, number)
) STRICT;
CREATE TABLE IF NOT EXISTS shares (
  id TEXT PRIMARY KEY, key TEXT NOT NULL, content TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL,
  tenant TEXT NOT NULL DEFAULT '', owner TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, created INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
"""
VERSION = 6
SINCE_5 = tuple(f"ALTER TABLE shares ADD COLUMN {name} TEXT NOT NULL DEFAULT ''" for name in ("tenant", "owner"))
"""Statements that migrate a file from version 5."""
TABLES = ("presets", "settings", "consents", "live", "votes", "vectors", "feature_edits", "shares", "keys")
SHARE = "id, key, content, created, expires, tenant, owner"


class SqliteStore:
    """For one server process; further processes may read and write at the same time."""

    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            make_private_folder(path.parent)
            make_private_file(path)  # SQLite's companion files get the same mode
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        except (OSError, sqlite3.Error) as error:
            raise BadStore(f"cannot open {str(path)!r}: {error}; choose another --data-dir") from error
        try:
            self._prepare(path)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: Path) -> None:
        try:
            found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if found > VERSION:
                raise BadStore(
                    f"{str(path)!r} was written by a newer version of Tiller; update, or choose another --data-dir"
                )
            self._db.executescript(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON;" + SCHEMA
            )
            self._db.execute("BEGIN IMMEDIATE")  # two processes may migrate a file at once
            if "owner" not in [row[1] for row in self._db.execute("PRAGMA table_info(shares)")]:
                for change in SINCE_5:
                    self._db.execute(change)
            self._db.execute(f"PRAGMA user_version={VERSION}")
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise BadStore(f"cannot use {str(path)!r}: {error}; choose another --data-dir") from error

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
            row = db.execute("SELECT version FROM presets WHERE id = ?", (place,)).fetchone()
            saved = write_rules.saved_preset(row[0] if row else 0, preset, based_on=based_on)
            _put_preset(db, saved)
            return saved

        return await self._run(save)

    async def delete_preset(self, preset_id: str, tenant: str = "") -> bool:
        """Delete a preset; whether it existed."""
        place = (write_rules.place_of(preset_id, tenant),)
        return await self._run(lambda db: db.execute("DELETE FROM presets WHERE id = ?", place).rowcount > 0)

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

    async def add_votes(self, user: str, model: str, kind: str, votes: Sequence[StoredVote], *, most: int) -> None:
        """Add the votes of one feedback, under one number, and delete the oldest above the limit."""
        await self._run(lambda db: _add_votes(db, user, model, kind, votes, most=most))

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
            _mark_edits(db, bundle)
            if edit.empty:
                db.execute("DELETE FROM feature_edits WHERE bundle = ? AND number = ?", (bundle, number))
            else:
                db.execute("REPLACE INTO feature_edits VALUES (?, ?, ?)", (bundle, number, edit.model_dump_json()))
            return edit

        return await self._run(change)

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
                said=tuple(write_rules.group_votes(_read_votes(db, user, model))),
            )

        return await self._run(read)

    async def restore(
        self, user: str, model: str, kept: UserData, *, replace: bool, votes: int, vectors: int
    ) -> dict[str, Restored]:
        """Write imported data in one transaction. Raises AlreadyExists and Conflict, and then writes nothing."""

        def write(db: sqlite3.Connection) -> dict[str, Restored]:
            done: dict[str, Restored] = {f"preset:{p.id}": _restore_preset(db, p) for p in kept.presets}
            if kept.edits:
                _mark_edits(db, model)
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
            new = write_rules.missing_votes(kept.said, write_rules.group_votes(_read_votes(db, user, model)))
            for said in new:
                _add_votes(db, user, model, said.kind, said.votes, most=votes)
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

    async def _checkpoint(self) -> None:
        """Truncate the write-ahead log, which still contains deleted data."""

        def empty() -> None:
            with self._lock:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        await self._in_thread(empty)

    async def add_share(self, share: Share, *, most: int) -> None:
        """Save a share; the same transaction deletes expired ones. Raises Conflict if there are `most` already."""

        def add(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM shares WHERE expires < ?", (int(time.time()),))
            (n,) = db.execute("SELECT COUNT(*) FROM shares").fetchone()
            write_rules.check_shares(n, most=most)
            _put_share(db, share)

        await self._run(add)

    async def share(self, share_id: str) -> Share | None:
        """A share that has not expired."""
        sql = f"SELECT {SHARE} FROM shares WHERE id = ? AND expires >= ?"
        row = await self._run(lambda db: db.execute(sql, (share_id, int(time.time()))).fetchone())
        return Share(*row) if row else None

    async def delete_share(self, share_id: str) -> bool:
        """Delete a share; whether it existed."""
        return await self._run(lambda db: db.execute("DELETE FROM shares WHERE id = ?", (share_id,)).rowcount > 0)

    async def keys(self) -> list[Key]:
        """All keys, oldest first."""
        rows = await self._run(lambda db: db.execute("SELECT body FROM keys ORDER BY created, id").fetchall())
        return [Key.model_validate_json(body) for (body,) in rows]

    async def add_key(self, key: Key) -> None:
        """Add a key."""
        await self._run(lambda db: _put_key(db, key))

    async def delete_key(self, key_id: str) -> bool:
        """Delete a key; whether it existed."""
        return await self._run(lambda db: db.execute("DELETE FROM keys WHERE id = ?", (key_id,)).rowcount > 0)

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

    async def check(self) -> None:
        """Run a query, unless another one holds the lock."""

        def query() -> None:
            if self._lock.acquire(timeout=0.1):
                try:
                    self._db.execute("SELECT 1 FROM settings LIMIT 1").fetchone()
                finally:
                    self._lock.release()

        await self._in_thread(query)

    async def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def in_transaction() -> T:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    result = work(self._db)
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
                return result

        return await self._in_thread(in_transaction)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(work)
        except sqlite3.OperationalError as error:  # a full disk, a missing file, or another process' lock
            raise Unavailable(f"the store's file cannot be used: {error}") from error


def _add_votes(
    db: sqlite3.Connection, user: str, model: str, kind: str, votes: Sequence[StoredVote], *, most: int
) -> None:
    (said,) = db.execute("SELECT COALESCE(MAX(said), 0) + 1 FROM votes").fetchone()
    rows = [(user, model, said, kind, v.subject, v.dose, v.liked, v.weight, v.created) for v in votes]
    names = "user, model, said, kind, subject, dose, liked, weight, created"
    db.executemany(f"INSERT INTO votes ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    newest = "SELECT id FROM votes WHERE user = ? AND model = ? ORDER BY id DESC LIMIT ?"
    old = f"DELETE FROM votes WHERE user = ? AND model = ? AND id NOT IN ({newest})"
    db.execute(old, (user, model, user, model, most))


def _read_votes(db: sqlite3.Connection, user: str, model: str) -> Iterator[write_rules.Given]:
    """A user's votes, oldest first."""
    names = "said, kind, subject, dose, liked, weight, created"
    rows = db.execute(f"SELECT {names} FROM votes WHERE user = ? AND model = ? ORDER BY id", (user, model))
    return ((row[0], row[1], StoredVote(*row[2:])) for row in rows)


def _mark_edits(db: sqlite3.Connection, bundle: str) -> None:
    db.execute("REPLACE INTO settings VALUES (?, ?)", (edits_setting(bundle), uuid.uuid4().hex))


def _put_preset(db: sqlite3.Connection, preset: Preset) -> None:
    place = write_rules.place_of(preset.id, preset.tenant)
    db.execute("REPLACE INTO presets VALUES (?, ?, ?)", (place, preset.version, preset.model_dump_json()))


def _put_share(db: sqlite3.Connection, share: Share) -> None:
    row = (share.id, share.key, share.content, share.created, share.expires, share.tenant, share.owner)
    db.execute(f"INSERT INTO shares ({SHARE}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _put_key(db: sqlite3.Connection, key: Key) -> None:
    db.execute("INSERT INTO keys VALUES (?, ?, ?)", (key.id, key.created, key.model_dump_json()))


def _restore_preset(db: sqlite3.Connection, preset: Preset) -> Restored:
    place = (write_rules.place_of(preset.id, preset.tenant),)
    row = db.execute("SELECT body FROM presets WHERE id = ?", place).fetchone()
    now, result = write_rules.restored_preset(Preset.model_validate_json(row[0]) if row else None, preset)
    _put_preset(db, now)
    return result


def _put(db: sqlite3.Connection, table: str, key: Mapping[str, str | int], body: str) -> Restored:
    where = " AND ".join(f"{name} = ?" for name in key)
    row = db.execute(f"SELECT body FROM {table} WHERE {where}", tuple(key.values())).fetchone()
    names = ", ".join([*key, "body"])
    db.execute(f"REPLACE INTO {table} ({names}) VALUES ({', '.join('?' * (len(key) + 1))})", (*key.values(), body))
    return write_rules.restored(row[0] if row else None, body)


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
        for said in write_rules.group_votes(_read_votes(db, user, model)):
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
            _put_preset(db, Preset.model_validate(v))
        case "setting":
            db.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (v["key"], v["value"]))
        case "consent":
            db.execute("INSERT INTO consents VALUES (?, ?)", (v["user"], v["since"]))
        case "text":
            row = (v["user"], write_rules.digest(v["messages"]), v["messages"], v["created"], v["expires"])
            db.execute("INSERT INTO live (user, digest, messages, created, expires) VALUES (?, ?, ?, ?, ?)", row)
        case "said":
            votes = [StoredVote(**vote) for vote in v["votes"]]
            _add_votes(db, v["user"], v["model"], v["kind"], votes, most=-1)
        case "edit":
            body = FeatureEdit.model_validate(v["edit"]).model_dump_json()
            db.execute("INSERT INTO feature_edits VALUES (?, ?, ?)", (v["bundle"], v["number"], body))
            _mark_edits(db, v["bundle"])
        case "vector":
            vector = Vector.model_validate(v["vector"])
            row = (v["user"], v["model"], vector.name, vector.model_dump_json())
            db.execute("INSERT INTO vectors VALUES (?, ?, ?, ?)", row)
        case "share":
            _put_share(db, Share(**v))
        case "key":
            _put_key(db, Key.model_validate(v))
