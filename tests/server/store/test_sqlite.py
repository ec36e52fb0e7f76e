"""SQLite store: persistence, migrations, files that are no database, and a full disk."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from server.store.base import BadStore, Conflict, Unavailable
from server.store.models import Share
from server.store.sqlite.store import SqliteStore
from steering.spec import Preset

WRITER = """
import asyncio, sys
from pathlib import Path
from server.store.sqlite.store import SqliteStore
from steering.spec import Preset
async def main():
    store = SqliteStore(Path(sys.argv[1]))
    for i in range(100000):
        await store.save_preset(Preset(id=f"p{i}", name="x" * 80, description="y" * 400))
        print(i, flush=True)
asyncio.run(main())
"""


def test_every_confirmed_preset_survives_kill_9(tmp_path):
    path = tmp_path / "t.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        confirmed = [int(writer.stdout.readline()) for _ in range(30)][-1]
        os.kill(writer.pid, signal.SIGKILL)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = {json.loads(body)["id"] for (body,) in db.execute("SELECT body FROM presets")}
    db.close()
    assert {f"p{i}" for i in range(confirmed + 1)} <= rows


def test_file_of_a_newer_version_is_refused(tmp_path):
    db = sqlite3.connect(tmp_path / "t.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(BadStore, match="newer version"):
        SqliteStore(tmp_path / "t.db")


def test_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    (tmp_path / "t.db").write_text("my diary " * 500)
    with pytest.raises(BadStore, match="choose another --data-dir"):
        SqliteStore(tmp_path / "t.db")
    assert (tmp_path / "t.db").read_text() == "my diary " * 500


def test_shares_of_version_5_stay_and_have_no_owner(tmp_path):
    async def made():
        store = SqliteStore(tmp_path / "tiller.db")
        store._db.executescript(
            "DROP TABLE shares; CREATE TABLE shares (id TEXT PRIMARY KEY, key TEXT NOT NULL, content TEXT NOT NULL,"
            " created INTEGER NOT NULL, expires INTEGER NOT NULL) STRICT;"
            "INSERT INTO shares VALUES ('s', 'k', '{}', 1, 99999999999); PRAGMA user_version=5"
        )
        await store.close()
        again = SqliteStore(tmp_path / "tiller.db")
        found = await again.share("s")
        await again.close()
        return found

    assert asyncio.run(made()) == Share("s", "k", "{}", 1, 99999999999, "", "")


def test_a_store_of_an_older_version_takes_shares(tmp_path):
    async def run():
        store = SqliteStore(tmp_path / "t.db")
        store._db.executescript("DROP TABLE shares; PRAGMA user_version=4")
        await store.close()
        store = SqliteStore(tmp_path / "t.db")
        one = Share("a", "k", "{}", 1, int(time.time()) + 9)
        await store.add_share(one, most=1)
        assert await store.share("a") == one
        with pytest.raises(Conflict):
            await store.add_share(one, most=1)
        assert (await store.delete_share("a"), await store.delete_share("a")) == (True, False)
        await store.close()

    asyncio.run(run())


async def test_a_file_that_somebody_else_holds_is_unavailable_and_then_it_is_there_again(tmp_path):
    store = SqliteStore(tmp_path / "t.db")
    store._db.execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(tmp_path / "t.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await store.check()  # it could be read
    for asked in (store.presets, lambda: store.save_preset(Preset(id="a", name="A"))):
        with pytest.raises(Unavailable, match="locked"):
            await asked()
    other.execute("ROLLBACK")
    other.close()
    await store.check()
    assert (await store.save_preset(Preset(id="a", name="A"))).version == 1
    await store.close()


async def test_a_full_disk_is_unavailable_and_writes_nothing(tmp_path):
    store = SqliteStore(tmp_path / "t.db")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(Unavailable, match="full"):
        await store.set_setting("k", "v" * 100_000)
    assert await store.setting("k") is None
    await store.set_setting("k", "v")
    await store.close()
