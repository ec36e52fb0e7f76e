"""Stored data of commit 22c3374, before the restructuring, is read and served: a SQLite data directory and a Redis
dump.
"""

import tarfile
import threading

import httpx
import pytest

from server.jobs.queue import JobQueue
from server.jobs.runner import Runner
from tests.support.live_server import serving
from tests.support.paths import ROOT
from tests.support.redis_server import running
from tests.support.waiting import until

STORED = ROOT / "tests" / "data" / "written_by_22c3374"
SECRETS = {
    "sqlite": "sk-tiller-TNHYNDMQwwYdRj_t_ilLLIAgb2nv5VtnYUE0mkgJUhc",
    "redis": "sk-tiller-ZtqycmbqA7R_cL_a5gHf0BKjdajr8-nVCKLzvIFOCPY",
}
"""Of the key that was made there; it opens nothing else."""


@pytest.fixture(params=SECRETS)
def served(request, bundle, tmp_path):
    kind = request.param
    with tarfile.open(STORED / f"{kind}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    headers = {"Authorization": f"Bearer {SECRETS[kind]}"}
    with httpx.Client(headers=headers) as http:
        if kind == "sqlite":
            with serving(bundle, tmp_path / "data") as (address, app):
                http.base_url = address
                yield http, app
        else:
            with (
                running(tmp_path, dump=True) as redis,
                serving(bundle, tmp_path / "data", redis_url=f"{redis.url}/0") as (address, app),
            ):
                http.base_url = address
                yield http, app


def test_what_people_saved_is_there_and_steers(served):
    http, _ = served
    assert http.get("/v1/presets/mine").json()["steering"]["features"][0]["id"] == "small/1"
    said = [{"role": "user", "content": "hello there"}]
    reply = http.post(
        "/v1/chat/completions", json={"model": "small@mine", "messages": said, "max_tokens": 4, "seed": 1}
    )
    assert reply.status_code == 200, reply.text
    assert [a["id"] for a in reply.json()["steering"]["applied"]] == ["small/1"]
    feature = http.get("/v1/features/small/3").json()
    assert (feature["label"], feature["note"], feature["starred"]) == ("red bridges", "seen often", True)
    exported = http.get("/v1/export").json()
    assert [p["id"] for p in exported["presets"]] in ([], ["mine"])  # without keys it was everybody's


def test_the_key_is_valid_and_others_are_not(served):
    http, _ = served
    assert http.get("/v1/me").json()["role"] == "creator"
    assert httpx.get(f"{http.base_url}/v1/me").status_code == 401


def test_the_revision_that_was_published_is_served(served):
    http, app = served
    assert app.state.served_model.bundle.info.revision == "r2"
    assert {s["id"] for s in http.get("/v1/saes").json()["data"]} == {"r1", "r2"}


def test_a_job_that_ended_is_listed_and_one_that_was_queued_runs(served):
    _, app = served
    jobs = JobQueue(app.state.settings)
    states = {job.type: job.state for job in jobs.all()}
    assert states == {"describe": "succeeded", "sweep": "queued"}
    sweep = next(job.id for job in jobs.all() if job.type == "sweep")
    stop = threading.Event()
    runner = threading.Thread(target=Runner(jobs).run, args=(stop,))
    runner.start()
    try:
        assert until(lambda: jobs.get(sweep).state in ("succeeded", "failed"))
        assert jobs.get(sweep).state == "succeeded", jobs.get(sweep).error
    finally:
        stop.set()
        runner.join(120)
