"""Replicas with one Redis: shared state; and `--workers`: several processes behind one address, the page included."""

import os
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from redis import Redis

from steering.catalogue.revisions import Revisions
from tests.server.cli.test_main import free_port, run, tiller
from tests.server.serving.test_revision_switch import published
from tests.support.live_server import serving
from tests.support.waiting import until

KINDS = ("count=tests.support.fake_jobs:JOB",)
PLAIN = {"model": "small", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 4}
MINE = {"id": "mine", "name": "Mine", "steering": {"features": [{"id": "small/1", "strength": 0.5}]}}


@pytest.fixture
def url(redis):
    with Redis.from_url(f"{redis}/10") as client:
        client.flushdb()
    return f"{redis}/10"


@pytest.fixture
def two(bundle, tmp_path, url):
    """Two servers that share a Redis and a data directory."""
    with (
        serving(bundle, tmp_path, redis_url=url, job_kinds=KINDS) as (one, _),
        serving(bundle, tmp_path, redis_url=url, job_kinds=KINDS) as (other, _),
        httpx.Client(base_url=one, timeout=30) as first,
        httpx.Client(base_url=other, timeout=30) as second,
    ):
        yield first, second


def ask(http, **more):
    return http.post("/v1/chat/completions", json=PLAIN | more)


def test_a_preset_that_one_saves_the_other_steers_by_at_once(two):
    first, second = two
    assert ask(second, model="small@mine").status_code == 404
    for n in range(5):
        made = first.put("/v1/presets/mine", json=MINE | {"description": f"the {n}th"})
        assert made.status_code == 200
        assert ask(second, model="small@mine").json()["steering"]["preset"] == "mine"
        assert second.get("/v1/presets/mine").json() == made.json()
    assert "small@mine" in [m["id"] for m in second.get("/v1/models").json()["data"]]
    stale = second.put("/v1/presets/mine", json=MINE, headers={"If-Match": '"2"'})
    assert stale.status_code == 412
    assert second.delete("/v1/presets/mine").status_code == 200
    assert ask(first, model="small@mine").status_code == 404


def test_a_feature_that_one_renames_the_other_calls_so_soon(two):
    first, second = two
    for label in ("harbour", "lighthouse", None):
        told = first.patch("/v1/features/small/1", json={"label": label}).json()["label"]
        until(lambda told=told: second.get("/v1/features/small/1").json()["label"] == told)
    second.patch("/v1/features/small/2", json={"label": "foghorn"})
    until(lambda: [f["id"] for f in first.get("/v1/features?q=foghorn").json()["data"]] == ["small/2"])
    assert first.get("/v1/features/small/2").json()["label"] == "foghorn"


def test_a_revision_that_one_activates_reaches_the_other_soon(two, bundle, tmp_path):
    first, second = two
    revision = published(Revisions(bundle, tmp_path / "revisions/small"))
    assert first.post(f"/v1/saes/{revision}/activate").status_code == 200
    until(lambda: ask(second).json()["steering"]["revision"] == revision)
    assert second.post("/v1/saes/rollback").status_code == 200
    until(lambda: ask(first).json()["steering"]["revision"] == "r1")


def test_a_revision_whose_files_come_later_is_served_when_they_are_there(bundle, tmp_path, url):
    here, there = (tmp_path / name / "revisions/small" for name in ("here", "there"))
    with (
        serving(bundle, tmp_path / "here", redis_url=url) as (one, _),
        serving(bundle, tmp_path / "there", redis_url=url) as (other, _),
    ):
        revision = published(Revisions(bundle, here))
        assert httpx.post(f"{one}/v1/saes/{revision}/activate", timeout=30).status_code == 200
        until(lambda: "has no revision" in str(httpx.get(f"{other}/health").json()["swap_error"]))
        shutil.copytree(here / revision, there / ".draft")
        (there / ".draft").rename(there / revision)
        until(lambda: httpx.get(f"{other}/health").json()["revision"] == revision)
        assert httpx.get(f"{other}/health").json()["swap_error"] is None


def test_a_job_that_one_begins_the_other_sees_and_ends(two):
    first, second = two
    job = first.post("/v1/jobs", json={"type": "count"}).json()["id"]
    assert [j["id"] for j in second.get("/v1/jobs").json()["data"]] == [job]
    assert second.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    assert first.get(f"/v1/jobs/{job}").json()["state"] == "cancelled"


def test_what_a_user_says_to_one_the_other_knows(two):
    first, second = two
    vote = {"user": "ada", "kind": "thumb", "up": True, "steering": MINE["steering"]}
    assert first.post("/v1/feedback", json=vote).status_code == 200
    first.put("/v1/training/consent", json={"user": "ada", "consent": True})
    ask(second, user="ada")
    assert second.get("/v1/feedback?user=ada").json() == first.get("/v1/feedback?user=ada").json()
    until(lambda: first.get("/v1/training/consent?user=ada").json()["texts"] == 1)
    assert second.get("/v1/export?user=ada").json()["votes"] == first.get("/v1/export?user=ada").json()["votes"] != []


def test_workers_without_redis_are_refused_in_one_sentence(bundle, tmp_path):
    result = run("serve", "--workers", "2", "--no-browser", TILLER_BUNDLE=str(bundle), TILLER_DATA_DIR=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.strip() == (
        "tiller: --workers 2 needs a store that all replicas share: give --redis-url redis://localhost:6379, "
        "or leave --workers out"
    )


@pytest.fixture
def workers(bundle, tmp_path, url):
    """`tiller serve --workers 2`, ready."""
    port, said, problems = free_port(), [], []
    words, env = tiller("serve", "--workers", "2", "--no-browser", "--port", str(port), "--redis-url", url)
    env |= {"TILLER_BUNDLE": str(bundle), "TILLER_DATA_DIR": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for heard, lines in ((said, process.stdout), (problems, process.stderr)):
        threading.Thread(target=lambda heard=heard, lines=lines: heard.extend(lines), daemon=True).start()
    try:
        until(lambda: any("try" in line for line in said) or process.poll() is not None)
        yield process, f"http://127.0.0.1:{port}", said, problems
    finally:
        process.kill()
        process.wait(120)
        process.stderr.close()
        process.stdout.close()


def children(process):
    """The replicas, by the order in which they were begun."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}").parent.glob("*/children")
    ids = sorted({int(pid) for file in found for pid in file.read_text().split()})
    return [pid for pid in ids if b"replica" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def cpu(pid):
    """What a process has worked."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def serves(address):
    """Whether a fresh connection is answered."""
    try:
        return httpx.get(f"{address}/health", timeout=60).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the replicas by /proc")
def test_workers_share_an_address_and_whoever_dies_is_replaced(workers):
    process, address, said, problems = workers
    assert "2 replicas" in "".join(said)
    first, second = children(process)
    before = [cpu(pid) for pid in (first, second)]
    assert httpx.put(f"{address}/v1/presets/mine", json=MINE).status_code == 200
    with ThreadPoolExecutor(16) as pool:
        body = PLAIN | {"model": "small@mine"}
        codes = pool.map(
            lambda _: httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60).status_code, range(48)
        )
        assert {*codes} == {200}
    assert all(cpu(pid) > worked for pid, worked in zip((first, second), before, strict=True))
    for n, victim in enumerate((first, second), 1):  # after both, nobody is left who was there at first
        os.kill(victim, signal.SIGKILL)
        until(lambda: serves(address))
        assert all(serves(address) for _ in range(10))  # while the other one loads, nobody is sent to it
        until(lambda n=n: "".join(problems).count("a replica was restarted") == n)
    assert not {first, second} & {*children(process)}
    assert serves(address)


def test_workers_end_with_their_replies(workers):
    process, address, *_ = workers
    long = PLAIN | {"max_tokens": 400, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=long, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        ids = children(process) if Path("/proc/self").exists() else []
        process.send_signal(signal.SIGTERM)
        last = [line for line in lines if line][-1]
    assert last == "data: [DONE]" or "engine_failed" in last
    assert process.wait(90) == 0
    assert not [pid for pid in ids if Path(f"/proc/{pid}").exists()]


def test_the_page_works_whoever_is_asked_for_it(workers):
    _, address, *_ = workers
    page = httpx.get(f"{address}/")
    assert page.status_code == 200
    assert "Tiller" in page.text
    assert httpx.get(f"{address}/config").json()["components"]
    assert httpx.get(f"{address}/page/shell/page.css").status_code == 200


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads command lines in /proc")
def test_the_password_of_redis_stands_in_no_command_line(bundle, tmp_path, url):
    with Redis.from_url(url) as client:
        client.acl_setuser(
            "tiller", enabled=True, passwords=["+very-secret"], keys=["*"], channels=["*"], categories=["+@all"]
        )
    port = free_port()
    given = {"TILLER_REDIS_URL": url.replace("redis://", "redis://tiller:very-secret@"), "TILLER_BUNDLE": str(bundle)}
    given |= {"TILLER_DATA_DIR": str(tmp_path / "data"), "TILLER_LOOK_SECONDS": "0.5", "OMP_NUM_THREADS": "1"}
    given |= {"TILLER_JOB_KINDS": f'["{KINDS[0]}"]', "TILLER_TRAINER": "true"}
    words, env = tiller("serve", "--workers", "2", "--no-browser", "--port", str(port), **given)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(words, env=env, stdout=log, stderr=log)
    found = {}

    def seen():
        for pid in descendants(process.pid):
            if words := command_line(pid):
                found.setdefault(words[3], []).append(b" ".join(words))
        return {b"replica", b"trainer", b"job", b"look"} <= found.keys()

    try:
        until(lambda: serves(f"http://127.0.0.1:{port}"))
        asked = {"type": "count", "config": {"steps": 30, "seconds": 0.2}}
        assert httpx.post(f"http://127.0.0.1:{port}/v1/jobs", json=asked, timeout=30).status_code == 202
        until(seen)
    finally:
        process.terminate()
        process.wait(60)
        with Redis.from_url(url) as client:
            client.acl_deluser("tiller")
    assert not [line for lines in found.values() for line in lines if b"very-secret" in line]


def descendants(pid):
    """All processes below one."""
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = file.read_text().split()
        except OSError:
            continue
        for child in below:
            yield int(child)
            yield from descendants(int(child))


def command_line(pid):
    """Its words, if it is one of ours."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return words if words[1:3] == [b"-m", b"server"] else None


def test_what_is_wrong_is_said_once(bundle, tmp_path, url):
    result = run(
        "serve", "--workers", "2", "--no-browser", "--port", "0", "--redis-url", url, "--bundle", str(tmp_path)
    )
    assert result.returncode == 1
    assert "is not a bundle" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
