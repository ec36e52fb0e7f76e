"""The default store: one SQLite file, write-ahead log, every commit on disk before it is confirmed."""

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread

from server.store.store import BadStore, Conflict, Kept, LiveText, Restored, Said, Share, StoredVote, Taken
from steering.edited import Edited
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
  id TEXT PRIMARY KEY, key TEXT NOT NULL, content TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL
) STRICT;
"""
VERSION = 5


class SqliteStore:
    """Correct for one server process; a second process may read and write beside it, too."""

    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
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
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + SCHEMA)
            self._db.execute(f"PRAGMA user_version={VERSION}")
        except sqlite3.Error as error:
            raise BadStore(f"cannot use {str(path)!r}: {error}; choose another --data-dir") from error

    async def presets(self) -> list[Preset]:
        """All saved presets, in the order of their names."""
        rows = await self._run(lambda db: db.execute("SELECT body FROM presets").fetchall())
        return sorted((Preset.model_validate_json(body) for (body,) in rows), key=lambda p: p.name.lower())

    async def preset(self, preset_id: str) -> Preset | None:
        """One saved preset."""
        row = await self._run(lambda db: db.execute("SELECT body FROM presets WHERE id = ?", (preset_id,)).fetchone())
        return Preset.model_validate_json(row[0]) if row else None

    async def save_preset(self, preset: Preset, *, based_on: int | None = None) -> Preset:
        """Create or replace in one transaction. Raises Conflict if `based_on` is not the version held."""

        def save(db: sqlite3.Connection) -> Preset:
            row = db.execute("SELECT version FROM presets WHERE id = ?", (preset.id,)).fetchone()
            held = row[0] if row else 0
            if based_on is not None and based_on != held:
                raise Conflict(f"preset {preset.id!r} is at version {held}, not {based_on}")
            saved = preset.model_copy(update={"version": held + 1, "updated": int(time.time()), "readonly": False})
            db.execute("REPLACE INTO presets VALUES (?, ?, ?)", (saved.id, saved.version, saved.model_dump_json()))
            return saved

        return await self._run(save)

    async def delete_preset(self, preset_id: str) -> bool:
        """Forget a preset; whether there was one."""
        return await self._run(lambda db: db.execute("DELETE FROM presets WHERE id = ?", (preset_id,)).rowcount > 0)

    async def setting(self, key: str) -> str | None:
        """A remembered setting."""
        row = await self._run(lambda db: db.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone())
        return row[0] if row else None

    async def set_setting(self, key: str, value: str) -> None:
        """Remember a setting."""
        await self._run(lambda db: db.execute("REPLACE INTO settings VALUES (?, ?)", (key, value)))

    async def consent(self, user: str) -> bool:
        """Whether this user's conversations may be learnt from."""
        return bool(await self._run(lambda db: db.execute("SELECT 1 FROM consents WHERE user = ?", (user,)).fetchone()))

    async def set_consent(self, user: str, agreed: bool) -> None:
        """Remember what they say; with a no, what they gave before is deleted in the same transaction."""

        def change(db: sqlite3.Connection) -> None:
            if agreed:
                db.execute("INSERT OR IGNORE INTO consents VALUES (?, ?)", (user, time.time()))
            else:
                db.execute("DELETE FROM consents WHERE user = ?", (user,))
                db.execute("DELETE FROM live WHERE user = ?", (user,))

        await self._run(change)

    async def keep_text(self, user: str, messages: str, *, most: int, seconds: float) -> bool:
        """Keep a conversation of a user who agreed; the same transaction drops their oldest and all that expired."""
        digest, now = hashlib.sha256(messages.encode()).hexdigest(), time.time()

        def keep(db: sqlite3.Connection) -> bool:
            if not db.execute("SELECT 1 FROM consents WHERE user = ?", (user,)).fetchone():
                return False
            db.execute("DELETE FROM live WHERE expires < ?", (now,))
            row = (user, digest, messages, now, now + seconds)
            sql = "INSERT OR IGNORE INTO live (user, digest, messages, created, expires) VALUES (?, ?, ?, ?, ?)"
            kept = db.execute(sql, row).rowcount > 0
            newest = "SELECT id FROM live WHERE user = ? ORDER BY id DESC LIMIT ?"
            db.execute(f"DELETE FROM live WHERE user = ? AND id NOT IN ({newest})", (user, user, most))
            return kept

        return await self._run(keep)

    async def live_texts(self) -> list[LiveText]:
        """All that is kept and has not expired, oldest first."""
        sql = "SELECT user, messages, created FROM live WHERE expires >= ? ORDER BY id"
        rows = await self._run(lambda db: db.execute(sql, (time.time(),)).fetchall())
        return [LiveText(*row) for row in rows]

    async def forget_texts(self, user: str) -> int:
        """Delete what a user gave; how much there was."""
        return await self._run(lambda db: db.execute("DELETE FROM live WHERE user = ?", (user,)).rowcount)

    async def add_votes(self, user: str, model: str, kind: str, votes: Sequence[StoredVote], *, most: int) -> None:
        """Remember what was said at once, under one number, and drop what is too old."""

        await self._run(lambda db: _add_votes(db, user, model, kind, votes, most=most))

    async def votes(self, user: str, model: str) -> list[StoredVote]:
        """What a user has said, oldest first."""
        sql = "SELECT subject, dose, liked, weight, created FROM votes WHERE user = ? AND model = ? ORDER BY id"
        return [StoredVote(*row) for row in await self._run(lambda db: db.execute(sql, (user, model)).fetchall())]

    async def drop_votes(self, user: str, model: str, *, last: bool) -> int:
        """Forget what was said last, or everything."""
        whose, who = "user = ? AND model = ?", (user, model)
        only = f" AND said = (SELECT MAX(said) FROM votes WHERE {whose})" if last else ""
        return await self._run(
            lambda db: db.execute(f"DELETE FROM votes WHERE {whose}{only}", who + (who if last else ())).rowcount
        )

    async def feature_edits(self, bundle: str) -> dict[int, Edited]:
        """What people say of a bundle's features, by number."""
        sql = "SELECT number, body FROM feature_edits WHERE bundle = ?"
        rows = await self._run(lambda db: db.execute(sql, (bundle,)).fetchall())
        return {number: Edited.model_validate_json(body) for number, body in rows}

    async def edit_feature(self, bundle: str, number: int, changes: Mapping[str, Any], *, by: str | None) -> Edited:
        """Change what is said of a feature, in one transaction; where nothing is said any more, the row goes."""

        def change(db: sqlite3.Connection) -> Edited:
            sql = "SELECT body FROM feature_edits WHERE bundle = ? AND number = ?"
            row = db.execute(sql, (bundle, number)).fetchone()
            held = Edited.model_validate_json(row[0]) if row else Edited()
            now = {**held.model_dump(exclude={"before"}), **changes, "by": by, "at": int(time.time())}
            edit = Edited.model_validate(now)
            if edit.empty:
                db.execute("DELETE FROM feature_edits WHERE bundle = ? AND number = ?", (bundle, number))
            else:
                db.execute("REPLACE INTO feature_edits VALUES (?, ?, ?)", (bundle, number, edit.model_dump_json()))
            return edit

        return await self._run(change)

    async def vectors(self, user: str, model: str) -> list[Vector]:
        """A user's vectors for a model, in the order of their names."""
        sql = "SELECT body FROM vectors WHERE user = ? AND model = ? ORDER BY name"
        rows = await self._run(lambda db: db.execute(sql, (user, model)).fetchall())
        return [Vector.model_validate_json(body) for (body,) in rows]

    async def vector(self, user: str, model: str, name: str) -> Vector | None:
        """One of them; nobody else's."""
        sql = "SELECT body FROM vectors WHERE user = ? AND model = ? AND name = ?"
        row = await self._run(lambda db: db.execute(sql, (user, model, name)).fetchone())
        return Vector.model_validate_json(row[0]) if row else None

    async def save_vector(self, user: str, model: str, vector: Vector, *, replace: bool, most: int) -> None:
        """Keep a vector in one transaction. Raises Conflict if its name is taken and not to be replaced, or `most` are kept."""

        def save(db: sqlite3.Connection) -> None:
            names = [n for (n,) in db.execute("SELECT name FROM vectors WHERE user = ? AND model = ?", (user, model))]
            if vector.name in names and not replace:
                raise Conflict(f"there is a vector {vector.name!r} already")
            if vector.name not in names and len(names) >= most:
                raise Conflict(f"{user!r} has {len(names)} vectors, as many as are kept")
            row = (user, model, vector.name, vector.model_dump_json())
            db.execute("REPLACE INTO vectors VALUES (?, ?, ?, ?)", row)

        await self._run(save)

    async def delete_vector(self, user: str, model: str, name: str) -> bool:
        """Forget a vector; whether there was one."""
        sql = "DELETE FROM vectors WHERE user = ? AND model = ? AND name = ?"
        return await self._run(lambda db: db.execute(sql, (user, model, name)).rowcount > 0)

    async def kept(self, user: str, model: str) -> Kept:
        """All presets of a model, and what this user has said and made, as of one moment."""

        def read(db: sqlite3.Connection) -> Kept:
            presets = [Preset.model_validate_json(b) for (b,) in db.execute("SELECT body FROM presets ORDER BY id")]
            sql = "SELECT number, body FROM feature_edits WHERE bundle = ? ORDER BY number"
            edits = {n: Edited.model_validate_json(b) for n, b in db.execute(sql, (model,))}
            sql = "SELECT body FROM vectors WHERE user = ? AND model = ? ORDER BY name"
            vectors = [Vector.model_validate_json(b) for (b,) in db.execute(sql, (user, model))]
            return Kept(
                presets=tuple(p for p in presets if p.model == model),
                edits={n: e for n, e in edits.items() if e.by in (user, None)},
                vectors=tuple(vectors),
                said=tuple(_said(db, user, model)),
            )

        return await self._run(read)

    async def restore(
        self, user: str, model: str, kept: Kept, *, replace: bool, votes: int, vectors: int
    ) -> dict[str, Restored]:
        """Write it in one transaction. Raises Taken and Conflict, and then nothing is written."""

        def write(db: sqlite3.Connection) -> dict[str, Restored]:
            done: dict[str, Restored] = {f"preset:{p.id}": _put_preset(db, p) for p in kept.presets}
            for number, edit in kept.edits.items():
                key = {"bundle": model, "number": number}
                done[f"feature:{number}"] = _put(db, "feature_edits", key, edit.model_dump_json())
            for v in kept.vectors:
                key = {"user": user, "model": model, "name": v.name}
                done[f"vector:{v.name}"] = _put(db, "vectors", key, v.model_dump_json())
            if not replace and (taken := [name for name, result in done.items() if result == "replaced"]):
                raise Taken(taken)
            whose = "WHERE user = ? AND model = ?"
            (n,) = db.execute(f"SELECT COUNT(*) FROM vectors {whose}", (user, model)).fetchone()
            if n > vectors:
                raise Conflict(f"{user!r} would have {n} vectors; {vectors} are kept")
            held = {*_said(db, user, model)}
            new = [s for s in kept.said if s not in held]
            for said in new:
                _add_votes(db, user, model, said.kind, said.votes, most=votes)
            if kept.said:
                done["votes"] = "created" if new else "unchanged"
            return done

        return await self._run(write)

    async def add_share(self, share: Share, *, most: int) -> None:
        """Keep a share; the same transaction drops those that have expired. Raises Conflict if `most` are kept."""

        def add(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM shares WHERE expires < ?", (int(time.time()),))
            (n,) = db.execute("SELECT COUNT(*) FROM shares").fetchone()
            if n >= most:
                raise Conflict(f"{n} shares are kept, as many as there may be")
            row = (share.id, share.key, share.content, share.created, share.expires)
            db.execute("INSERT INTO shares VALUES (?, ?, ?, ?, ?)", row)

        await self._run(add)

    async def share(self, share_id: str) -> Share | None:
        """One that has not expired."""
        sql = "SELECT id, key, content, created, expires FROM shares WHERE id = ? AND expires >= ?"
        row = await self._run(lambda db: db.execute(sql, (share_id, int(time.time()))).fetchone())
        return Share(*row) if row else None

    async def delete_share(self, share_id: str) -> bool:
        """Forget a share; whether there was one."""
        return await self._run(lambda db: db.execute("DELETE FROM shares WHERE id = ?", (share_id,)).rowcount > 0)

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
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
                return result

        return await anyio.to_thread.run_sync(in_transaction)


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


def _said(db: sqlite3.Connection, user: str, model: str) -> list[Said]:
    """A user's votes, those that were given at once together, oldest first."""
    names = "said, kind, subject, dose, liked, weight, created"
    rows = db.execute(f"SELECT {names} FROM votes WHERE user = ? AND model = ? ORDER BY id", (user, model))
    return [
        Said(kind, tuple(StoredVote(*row[2:]) for row in together))
        for (_, kind), together in groupby(rows, key=lambda row: row[:2])
    ]


def _put_preset(db: sqlite3.Connection, given: Preset) -> Restored:
    """A new one keeps its version and time; one that replaces another counts on."""
    row = db.execute("SELECT body FROM presets WHERE id = ?", (given.id,)).fetchone()
    held = Preset.model_validate_json(row[0]) if row else None
    now = given.model_copy(update={"readonly": False, "updated": given.updated or int(time.time())})
    if held:
        if now.model_copy(update={"version": held.version, "updated": held.updated}) == held:
            return "unchanged"
        now = now.model_copy(update={"version": max(held.version, now.version) + 1, "updated": int(time.time())})
    db.execute("REPLACE INTO presets VALUES (?, ?, ?)", (now.id, now.version, now.model_dump_json()))
    return "replaced" if held else "created"


def _put(db: sqlite3.Connection, table: str, key: Mapping[str, str | int], body: str) -> Restored:
    where = " AND ".join(f"{name} = ?" for name in key)
    row = db.execute(f"SELECT body FROM {table} WHERE {where}", tuple(key.values())).fetchone()
    if row and row[0] == body:
        return "unchanged"
    names = ", ".join([*key, "body"])
    db.execute(f"REPLACE INTO {table} ({names}) VALUES ({', '.join('?' * (len(key) + 1))})", (*key.values(), body))
    return "replaced" if row else "created"
