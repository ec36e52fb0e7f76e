"""Audit log: actor and action of each event, no content of messages, and detection of changes."""

import json
import multiprocessing
import os
import subprocess
import sys

import httpx
import pytest

from server.auth.audit_log import AuditLog, BrokenAuditLog, Head
from server.auth.caller import Caller
from server.store.sqlite.store import SqliteStore
from tests.support.live_server import serving
from tests.support.waiting import until

ADMIN = "the-first-key-of-this-server-that-nobody-guesses"
HELLO = {"model": "small", "messages": [{"role": "user", "content": "canary-said"}], "max_tokens": 3, "temperature": 0}


def filled(folder, n=5):
    log = AuditLog(folder)
    for i in range(n):
        log.append({"act": f"act {i}"})
    return log


def test_a_chain_that_nobody_touched_holds(tmp_path):
    log = filled(tmp_path)
    head = log.verify()
    assert head.n == 5
    assert log.verify(head) == head
    assert log.verify(Head.read(str(head))) == head
    assert [line["act"] for line in log.lines()] == [f"act {i}" for i in range(5)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: [*rows[:2], rows[2].replace("act 2", "act X"), *rows[3:]], "line 4 does not follow"),
        (lambda rows: [*rows[:2], *rows[3:]], "line 3 does not follow"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "line 1 does not follow"),
        (lambda rows: rows[1:], "line 1 does not follow"),
        (lambda rows: [*rows, "rubbish"], "line 6 does not follow"),
        (lambda rows: rows[:3], "ends at line 3, and line 5 was there"),
        (lambda rows: [], "ends at line 0"),
        (lambda rows: [*rows[:4], rows[4].replace("act 4", "act X")], "line 5 was there"),
    ],
)
def test_whoever_changes_it_is_told_of(tmp_path, change, says):
    log = filled(tmp_path)
    kept = log.verify()
    rows = log.file.read_text().splitlines()
    log.file.write_text("".join(f"{row}\n" for row in change(rows)))
    with pytest.raises(BrokenAuditLog, match=says):
        log.verify(kept)


def test_a_line_that_was_cut_off_half_way_is_dropped_and_the_chain_goes_on(tmp_path):
    log = filled(tmp_path, 3)
    with log.file.open("a") as file:
        file.write('{"n": 4, "befo')
    log.append({"act": "after"})
    assert log.verify().n == 4


def add_many(folder):
    for i in range(50):
        AuditLog(folder).append({"act": "many", "i": i})


def test_several_processes_write_one_chain(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add_many, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert AuditLog(tmp_path).verify().n == 150


def test_a_server_notes_decisions_and_deeds_and_nothing_that_was_said(bundle, tmp_path):
    with serving(bundle, tmp_path, admin_key=ADMIN) as (address, _):
        about = {"headers": {"Authorization": f"Bearer {ADMIN}"}, "timeout": 30}
        secret = httpx.post(f"{address}/v1/keys", json={"name": "eve", "role": "user"}, **about).json()["secret"]
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {secret}"}) as http:
            steering = {"features": [{"id": "small/1", "strength": 0.4}]}
            told = http.post("/v1/chat/completions", json=HELLO | {"steering": steering}).json()
            http.post("/v1/chat/completions", json=HELLO)  # nothing was decided
            over = {"features": [{"id": "small/1", "strength": 3}]}
            assert http.post("/v1/chat/completions", json=HELLO | {"steering": over}).status_code == 403
            http.delete("/v1/me")
        log = AuditLog(tmp_path)
        until(lambda: len([*log.lines()]) == 4)
    made, steered, refused, erased = log.lines()
    assert [line["act"] for line in (made, steered, refused, erased)] == ["key made", "steered", "refused", "erased"]
    assert made["who"]["owner"] == "operator"
    assert (steered["who"]["owner"], steered["who"]["role"]) == ("eve", "user")
    assert (steered["hash"], steered["id"], steered["tokens"]) == (told["steering"]["hash"], told["id"], 3)
    assert (refused["route"], refused["rule"]) == ("/v1/chat/completions", "load")
    assert "canary" not in log.file.read_text()
    assert secret not in log.file.read_text()
    checked = tiller("audit", "verify", tmp_path)
    assert (checked.returncode, "4 lines" in checked.stdout) == (0, True)
    rows = log.file.read_text().splitlines()
    log.file.write_text("".join(f"{row}\n" for row in rows[:-1]))
    cut = tiller("audit", "verify", tmp_path)
    assert (cut.returncode, "lines are missing" in cut.stderr) == (1, True)
    assert json.loads(tiller("audit", "show", tmp_path).stdout.splitlines()[-1])["act"] == "refused"


def test_an_open_server_notes_nothing_for_it_cannot_tell_people_apart(bundle, tmp_path):
    with serving(bundle, tmp_path) as (address, _):
        steering = {"features": [{"id": "small/1", "strength": 0.4}]}
        httpx.post(f"{address}/v1/chat/completions", json=HELLO | {"steering": steering})
    assert not AuditLog(tmp_path).file.exists()


def tiller(*words):
    *words, folder = words
    return subprocess.run([sys.executable, "-m", "server", *words, "--data-dir", str(folder)], capture_output=True, text=True)  # fmt: skip


def test_what_is_done_at_the_command_line_is_noted_too(tmp_path):
    secret = tiller("keys", "new", "eve", "--role", "user", tmp_path).stdout.strip()
    key_id = next(AuditLog(tmp_path).lines())["made"]
    assert tiller("store", "backup", str(tmp_path / "kept.jsonl"), tmp_path).returncode == 0
    assert tiller("keys", "sign-out", tmp_path).returncode == 0
    assert tiller("keys", "rm", key_id, tmp_path).returncode == 0
    assert tiller("keys", "rm", key_id, tmp_path).returncode == 1  # nothing was done
    assert tiller("store", "restore", str(tmp_path / "kept.jsonl"), "--replace", tmp_path).returncode == 0
    lines = [*AuditLog(tmp_path).lines()]
    assert [line["act"] for line in lines] == ["key made", "sessions ended", "key deleted", "restored"]
    assert all((line["who"]["owner"], line["by"]["uid"]) == ("operator", os.getuid()) for line in lines)
    assert (lines[2]["deleted"], lines[3]["records"]["key"]) == (key_id, 1)
    assert secret not in AuditLog(tmp_path).file.read_text()
    assert tiller("audit", "verify", tmp_path).returncode == 0
    assert AuditLog(tmp_path).file.stat().st_mode & 0o077 == 0


async def test_the_last_of_many_replies_cannot_be_cut_off_unnoticed(tmp_path):
    log, store = AuditLog(tmp_path), SqliteStore(tmp_path / "store.db")
    for _ in range(3):
        await log.write(store, Caller("user", "t", "ada", key="key_ada"), "steered", tokens=1)
    kept = Head.read(await store.setting(log.head_setting))
    await store.close()
    assert log.verify(kept).n == 3
    log.file.write_text("".join(log.file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(BrokenAuditLog, match="lines are missing"):
        log.verify(kept)
