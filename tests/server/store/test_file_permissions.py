"""File permissions: the data folder and its files, old ones included, are readable by the server's user only."""

import os
import subprocess
import threading
from pathlib import Path

import httpx
import pytest

from server.files import make_private_folder
from server.store.sqlite.store import SqliteStore
from tests.server.cli.test_main import free_port, run, tiller
from tests.support.waiting import until

ADMIN = "the-first-key-of-this-server-that-nobody-guesses"
KINDS = '["count=tests.support.fake_jobs:JOB"]'


@pytest.fixture
def usual():
    """The umask that most have."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(place):
    return oct(Path(place).stat().st_mode & 0o777)


def open_to_others(folder):
    return sorted(str(p.relative_to(folder)) for p in [folder, *folder.rglob("*")] if p.stat().st_mode & 0o077)


async def test_a_store_is_for_us_alone_and_so_is_one_from_before(tmp_path, usual):
    folder = tmp_path / "data"
    await SqliteStore(folder / "tiller.db").close()
    assert (mode(folder), mode(folder / "tiller.db")) == ("0o700", "0o600")
    folder.chmod(0o755)
    (folder / "tiller.db").chmod(0o644)
    store = SqliteStore(folder / "tiller.db")
    try:
        await store.set_setting("a", "b")
        assert open_to_others(folder) == []
        assert (folder / "tiller.db-wal").exists()
    finally:
        await store.close()


def test_a_folder_that_is_everybodys_stays_so(tmp_path, usual):
    folder = tmp_path / "everybody's"
    folder.mkdir()
    folder.chmod(0o1777)
    make_private_folder(folder)
    assert mode(folder) == "0o777"


def test_a_key_from_the_command_line_leaves_nothing_that_others_can_read(tmp_path, usual):
    assert run("keys", "new", "ada", "--data-dir", str(tmp_path / "data")).returncode == 0
    assert open_to_others(tmp_path / "data") == []


def test_all_that_a_server_its_trainer_and_a_job_write_is_for_us_alone(bundle, tmp_path, usual):
    folder, port, said = tmp_path / "data", free_port(), []
    folder.mkdir()
    environment = {"TILLER_ADMIN_KEY": ADMIN, "TILLER_BUNDLE": str(bundle), "TILLER_DATA_DIR": str(folder)}
    environment |= {
        "TILLER_JOB_KINDS": KINDS,
        "TILLER_TRAINER": "true",
        "TILLER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    words, env = tiller("serve", "--no-browser", **environment)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    out = process.stdout
    assert out
    threading.Thread(target=lambda: said.extend(out), daemon=True).start()
    try:
        until(lambda: any("try" in line for line in said) or process.poll() is not None)
        headers = {"Authorization": f"Bearer {ADMIN}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as http:
            assert http.post("/v1/keys", json={"name": "ada"}).status_code == 201
            job = http.post("/v1/jobs", json={"type": "count"}).json()["id"]
            until(lambda: http.get(f"/v1/jobs/{job}").json()["state"] == "succeeded")
        names = {p.name for p in folder.rglob("*")}
        assert {"tiller.db", "jobs", "output.log"} <= names
        assert any("audit" in name for name in names)
        assert open_to_others(folder) == []
    finally:
        process.terminate()
        process.wait(120)
        out.close()
