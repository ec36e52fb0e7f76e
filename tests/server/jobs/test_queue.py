"""Job queue on SQLite and Redis: jobs run in their own processes, survive kills, and can be cancelled."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from huey.registry import Message

from server.jobs.queue import BadJob, JobQueue
from server.jobs.runner import Runner
from server.runtime import trainer_process
from server.schemas.jobs import ENDED
from server.settings import Settings
from tests.support.fake_jobs import go_on
from tests.support.live_server import serving
from tests.support.paths import ROOT
from tests.support.waiting import LIMIT, until

KINDS = ("count=tests.support.fake_jobs:JOB",)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(params=["sqlite", "redis"])
def settings(request, tmp_path):
    url = f"{request.getfixturevalue('redis')}/{hash(request.node.name) % 16}" if request.param == "redis" else None
    found = Settings(data_dir=tmp_path, redis_url=url, job_kinds=KINDS, bundle=tmp_path)
    yield found
    if url:
        JobQueue(found).huey.storage.conn.flushdb()


@contextlib.contextmanager
def runner(settings):
    """A runner in a thread of this process."""
    stop = threading.Event()
    thread = threading.Thread(target=Runner(JobQueue(settings)).run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(120)
        assert not thread.is_alive()


def trainer(settings):
    """A runner that can be killed."""
    code = (
        "import sys,threading; from server.jobs.queue import JobQueue; from server.jobs.runner import Runner;"
        "from server.settings import Settings;"
        "Runner(JobQueue(Settings.model_validate_json(sys.argv[1]))).run(threading.Event())"
    )
    return subprocess.Popen([sys.executable, "-c", code, settings.model_dump_json()], env=ENVIRONMENT)


def gone(pid):
    """Whether a process has ended; nobody may have asked what became of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_job_runs_and_tells(settings):
    jobs = JobQueue(settings)
    job = jobs.submit("count", {"steps": 4})
    assert job.state == "queued"
    with runner(settings):
        until(lambda: jobs.get(job.id).state == "succeeded")
    done = jobs.get(job.id)
    assert (done.result, done.progress, done.metrics, done.attempts) == ({"counted": 4}, 1.0, {"counted": 4.0}, 1)
    events = jobs.events(job.id)
    states = [e["data"]["state"] for e in events if e["event"] == "state"]
    assert states == ["queued", "running", "succeeded"]
    assert [e["data"]["progress"] for e in events if e["event"] == "metric"] == [0.25, 0.5, 0.75, 1.0]
    assert jobs.events(job.id, after=len(events) - 1) == events[-1:]
    assert "counted" in [p.name for p in jobs.artifacts(job.id)]
    jobs.delete(job.id)
    with pytest.raises(BadJob, match="there is no job"):
        jobs.get(job.id)


def test_who_sees_that_a_job_has_ended_finds_all_its_events(settings):
    told = []

    class Watched(JobQueue):
        def save(self, job):
            super().save(job)
            if job.state in ENDED:
                told.extend(e["data"]["state"] for e in self.events(job.id) if e["event"] == "state")

    jobs, stop = Watched(settings), threading.Event()
    job = jobs.submit("count", {})
    thread = threading.Thread(target=Runner(jobs).run, args=(stop,))
    thread.start()
    until(lambda: jobs.get(job.id).state in ENDED)
    stop.set()
    thread.join()
    assert told == ["queued", "running", "succeeded"]


def test_a_running_job_ends_when_it_is_cancelled(settings):
    jobs = JobQueue(settings)
    job, waiting = jobs.submit("count", {"steps": 1000, "seconds": 0.05}), jobs.submit("count", {})
    with runner(settings):
        until(lambda: jobs.get(job.id).metrics)
        jobs.cancel(waiting.id)
        assert jobs.get(waiting.id).state == "cancelled"
        jobs.cancel(job.id)
        until(lambda: jobs.get(job.id).state == "cancelled")
    counted = (jobs.folder / job.id / "counted").stat().st_size
    time.sleep(0.3)
    assert (jobs.folder / job.id / "counted").stat().st_size == counted
    with pytest.raises(BadJob, match="has cancelled already"):
        jobs.cancel(job.id)
    assert not (jobs.folder / waiting.id / "counted").exists()


def test_a_job_whose_runner_was_killed_goes_on_with_the_next(settings):
    jobs = JobQueue(settings)
    job = jobs.submit("count", {"steps": 40, "seconds": 0.1, "holds": 30})
    first = trainer(settings)
    try:
        until(lambda: jobs.get(job.id).metrics.get("counted", 0) >= 3)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait(LIMIT)
    pid = int((jobs.folder / job.id / "pid").read_text())
    until(lambda: gone(pid))  # its process dies with the runner
    assert 3 <= (jobs.folder / job.id / "counted").stat().st_size < 40
    go_on(jobs.folder / job.id)
    with runner(settings):
        until(lambda: jobs.get(job.id).state == "succeeded")
    done = jobs.get(job.id)
    assert done.attempts == 2
    assert done.result == {"counted": 40}
    assert any(e["data"].get("line", "").startswith("begun at") for e in jobs.events(job.id))


def test_a_job_that_dies_is_begun_three_times(settings):
    jobs = JobQueue(settings)
    job = jobs.submit("count", {"end": "die"})
    with runner(settings):
        until(lambda: jobs.get(job.id).state == "failed")
    assert "started 3 times" in jobs.get(job.id).error


@pytest.mark.parametrize(
    ("end", "said"), [("fail", "too little of everything"), ("break", "internal error: RuntimeError('a bug')")]
)
def test_a_job_that_fails_says_why(settings, end, said):
    jobs = JobQueue(settings)
    job = jobs.submit("count", {"end": end})
    with runner(settings):
        until(lambda: jobs.get(job.id).state == "failed")
    assert said in jobs.get(job.id).error
    traced = any("Traceback" in e["data"].get("line", "") for e in jobs.events(job.id))
    assert traced == (end == "break")


def test_two_runners_never_do_the_same_job(settings):
    jobs = JobQueue(settings)
    made = [jobs.submit("count", {"steps": 3}) for _ in range(4)]
    with runner(settings), runner(settings):
        until(lambda: all(jobs.get(j.id).state == "succeeded" for j in made))
    for job in made:
        states = [e["data"]["state"] for e in jobs.events(job.id) if e["event"] == "state"]
        assert states == ["queued", "running", "succeeded"]


class Runs:
    """Unpickled, it would leave a file."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (Path.write_text, (self.place, "it ran"))


def test_what_is_no_job_in_the_queue_neither_runs_nor_holds_up_those_that_are(settings, tmp_path):
    jobs, place = JobQueue(settings), tmp_path / "it-ran"
    pickled = pickle.dumps(Message("1", "server.jobs.queue.tiller.job", args=(Runs(place),), kwargs={}))
    others = [{}, [], {"id": 1, "task": "other", "job": f"job_{16 * '0'}"}, {"id": 1, "task": "x", "job": "../../etc"}]
    for rubbish in (pickled, b"", b"\xff", b"[" * 100_000, *(json.dumps(o).encode() for o in others)):
        jobs.huey.storage.enqueue(rubbish)
    job = jobs.submit("count", {"steps": 1})
    with runner(settings):
        until(lambda: jobs.get(job.id).state == "succeeded")
    assert not place.exists()
    assert jobs.huey.pending_count() == 0


def test_a_key_makes_one_job(settings):
    jobs = JobQueue(settings)
    assert jobs.submit("count", {}, "k").id == jobs.submit("count", {}, "k").id
    assert jobs.submit("count", {}, "other").id != jobs.submit("count", {}, "k").id
    assert len(jobs.all()) == 2


def test_a_key_of_a_deleted_job_can_be_used_again(settings):
    jobs = JobQueue(settings)
    first = jobs.submit("count", {}, "k")
    jobs.forget(first.id)
    second = jobs.submit("count", {}, "k")
    assert second.id != first.id
    assert jobs.submit("count", {}, "k").id == second.id
    jobs.huey.storage.pop_data(f"job:{second.id}")  # as when a process was killed between two writes
    assert jobs.submit("count", {}, "k").id != second.id
    assert len(jobs.all()) == 1


def test_keys_of_different_owners_are_never_the_same(settings):
    jobs = JobQueue(settings)
    callers = [(("a", "b"), "c"), (("", "a"), "b/c"), (("a", None), "b/c"), (("", None), "a/b/c"), (("a/b", None), "c")]
    assert len({jobs.submit("count", {}, key, by=by).id for by, key in callers}) == len(callers)


def test_runners_whose_clocks_differ_agree_on_who_holds_a_job(settings, monkeypatch):
    one, other = Runner(JobQueue(settings)), Runner(JobQueue(settings))
    one._lease("job_x")
    if settings.redis_url:  # a file is on one machine, which has one clock
        monkeypatch.setattr("time.time", lambda: 4e9)
    assert other._leased("job_x")


def test_a_job_that_cannot_be_is_refused_before_it_waits(settings):
    jobs = JobQueue(settings)
    for type, config, said in (
        ("magic", {}, "unknown job type 'magic'; the types are sae_train, sae_update, count"),
        ("count", {"step": 3}, "step of a count: unknown key"),
        ("sae_update", {"steps": "many"}, "steps of a sae_update: must be an integer"),
        ("sae_train", {"model": "m"}, "hook of a sae_train"),
        *(
            (
                "sae_train",
                {"model": "m", "hook": "layers.1", "out": out},
                "out of a sae_train: must be a name of up to 128",
            )
            for out in ("../../x", "/x", "a/b", "..", "")
        ),
    ):
        with pytest.raises(BadJob, match=said.split("'")[0]):
            jobs.submit(type, config)
    assert jobs.all() == []


def test_a_server_brings_a_trainer_that_ends_with_it(tmp_path):
    found = Settings(data_dir=tmp_path, job_kinds=KINDS)
    jobs = JobQueue(found)
    job = jobs.submit("count", {"steps": 2})
    with trainer_process.run_trainer_process(found):
        until(lambda: jobs.get(job.id).state == "succeeded")
        last = jobs.submit("count", {"steps": 400, "seconds": 0.1})
        until(lambda: jobs.get(last.id).state == "running")
    counted = jobs.folder / last.id / "counted"
    before = counted.stat().st_size if counted.exists() else 0
    time.sleep(0.5)
    assert (counted.stat().st_size if counted.exists() else 0) == before


def test_over_http(bundle, tmp_path):
    """Submit, follow, cancel, delete; and every wrong turn is named."""
    with (
        serving(bundle, tmp_path, job_kinds=KINDS) as (address, app),
        httpx.Client(base_url=address) as http,
    ):
        with runner(app.state.settings):
            made = http.post("/v1/jobs", json={"type": "count", "config": {"steps": 3}})
            assert made.status_code == 202
            job = made.json()["id"]
            with http.stream("GET", f"/v1/jobs/{job}/events") as stream:
                lines = list(stream.iter_lines())
            assert "event: metric" in lines
            assert lines[-2].startswith('data: {"state": "succeeded"')
            last = max(int(line[4:]) for line in lines if line.startswith("id: "))
            again = http.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": str(last - 1)}).text
            assert again.count("data:") == 1
        assert http.get(f"/v1/jobs/{job}").json()["result"] == {"counted": 3}
        assert http.get("/v1/jobs").json()["data"][0]["id"] == job
        assert {"name", "bytes", "sha256"} <= http.get(f"/v1/jobs/{job}/artifacts").json()["data"][0].keys()
        assert http.post(f"/v1/jobs/{job}/cancel").status_code == 409
        waiting = http.post("/v1/jobs", json={"type": "count"}).json()["id"]
        assert http.delete(f"/v1/jobs/{waiting}").status_code == 409
        assert http.post(f"/v1/jobs/{waiting}/cancel").json()["state"] == "cancelled"
        assert http.delete(f"/v1/jobs/{waiting}").json()["deleted"] is True
        assert http.get(f"/v1/jobs/{waiting}").status_code == 404
        wrong = http.post("/v1/jobs", json={"type": "magic"})
        assert wrong.status_code == 400
        assert wrong.json()["error"]["param"] == "type"
        assert http.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "x"}).status_code == 400
        assert http.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "9" * 5000}).status_code == 400
