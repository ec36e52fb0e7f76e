"""Pause and resume: a job pauses where it reports progress, other jobs run, and it continues or restarts."""

import signal
import time

import httpx
import pytest

from server.api.routes import jobs as routes
from server.jobs.queue import BadJob, JobQueue
from server.settings import Settings
from tests.server.jobs.test_queue import KINDS, ROOT, gone, runner, trainer
from tests.support.fake_jobs import go_on
from tests.support.live_server import serving
from tests.support.waiting import LIMIT, until

LONG = {"steps": 60, "seconds": 0.05, "holds": 50}


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path, job_kinds=KINDS, bundle=tmp_path)


@pytest.fixture
def jobs(settings):
    return JobQueue(settings)


def counted(jobs, job):
    return (jobs.folder / job.id / "counted").stat().st_size


def states(jobs, job):
    return [e["data"]["state"] for e in jobs.events(job.id) if e["event"] == "state"]


def stands(jobs, job):
    """Wait until its process stands still; then it counts no more."""
    until(lambda: states(jobs, job)[-1] == "paused")
    before = counted(jobs, job)
    time.sleep(0.4)
    assert counted(jobs, job) == before


def begun(jobs, **config):
    job = jobs.submit("count", {**LONG, **config})
    until(lambda: jobs.get(job.id).metrics.get("counted", 0) >= 2)
    return job


def ends(jobs, job):
    go_on(jobs.folder / job.id)
    until(lambda: jobs.get(job.id).state == "succeeded")


def test_a_paused_job_stands_still_and_goes_on_where_it_was(settings, jobs):
    with runner(settings):
        job = begun(jobs)
        assert jobs.pause(job.id).state == "paused"
        stands(jobs, job)
        assert (jobs.get(job.id).state, jobs.get(job.id).eta_s) == ("paused", None)
        jobs.resume(job.id)
        ends(jobs, job)
    assert jobs.get(job.id).attempts == 1
    assert states(jobs, job) == ["queued", "running", "paused", "running", "succeeded"]
    assert len([e for e in jobs.events(job.id) if "begun at" in e["data"].get("line", "")]) == 1


def test_others_are_done_while_it_is_paused_and_it_waits_for_its_turn(settings, jobs):
    with runner(settings):
        job = begun(jobs)
        jobs.pause(job.id)
        stands(jobs, job)
        quick = jobs.submit("count", {"steps": 2})
        until(lambda: jobs.get(quick.id).state == "succeeded")
        other = begun(jobs)
        assert jobs.get(job.id).state == "paused"
        jobs.resume(job.id)
        assert jobs.get(job.id).state == "queued"
        ends(jobs, other)
        ends(jobs, job)
        assert jobs.get(other.id).state == "succeeded"
    assert jobs.get(job.id).ended > jobs.get(other.id).ended
    assert jobs.get(job.id).attempts == 1


def test_a_paused_job_can_be_cancelled_and_its_process_is_gone(settings, jobs):
    with runner(settings):
        job = begun(jobs)
        jobs.pause(job.id)
        stands(jobs, job)
        pid = int((jobs.folder / job.id / "pid").read_text())
        jobs.cancel(job.id)
        until(lambda: jobs.get(job.id).state == "cancelled")
        assert states(jobs, job)[-1] == "cancelled"
        assert gone(pid)
        jobs.delete(job.id)
        quick = jobs.submit("count", {"steps": 1})
        until(lambda: jobs.get(quick.id).state == "succeeded")


def test_only_what_runs_is_paused_and_only_what_is_paused_is_resumed(settings, jobs):
    job = jobs.submit("count", {"steps": 2})
    with pytest.raises(BadJob, match="is queued; only a running job can be paused"):
        jobs.pause(job.id)
    with pytest.raises(BadJob, match="is queued; only a paused job can be resumed"):
        jobs.resume(job.id)
    with runner(settings):
        until(lambda: jobs.get(job.id).state == "succeeded")
    for change in (jobs.pause, jobs.resume):
        with pytest.raises(BadJob, match="is succeeded"):
            change(job.id)


def test_a_runner_that_ends_leaves_a_paused_job_paused_and_the_next_goes_on_from_its_files(settings, jobs):
    with runner(settings):
        job = begun(jobs)
        jobs.pause(job.id)
        stands(jobs, job)
    had = counted(jobs, job)
    assert jobs.get(job.id).state == "paused"
    with runner(settings):
        quick = jobs.submit("count", {"steps": 1})
        until(lambda: jobs.get(quick.id).state == "succeeded")
        assert jobs.get(job.id).state == "paused"
        assert counted(jobs, job) == had
        jobs.resume(job.id)
        ends(jobs, job)
    assert jobs.get(job.id).attempts == 1  # that it was begun again is not its fault
    assert jobs.get(job.id).result == {"counted": 60}
    assert any(f"begun at {had}" == e["data"].get("line") for e in jobs.events(job.id))


def test_a_runner_that_is_killed_takes_the_process_of_a_paused_job_with_it(settings, jobs):
    job = jobs.submit("count", LONG)
    first = trainer(settings)
    try:
        until(lambda: jobs.get(job.id).metrics.get("counted", 0) >= 2)
        jobs.pause(job.id)
        stands(jobs, job)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait(LIMIT)
    pid = int((jobs.folder / job.id / "pid").read_text())
    until(lambda: gone(pid))
    with runner(settings):
        assert jobs.get(job.id).state == "paused"
        jobs.resume(job.id)
        ends(jobs, job)
    assert jobs.get(job.id).attempts == 2


@pytest.fixture
def served(bundle, tmp_path):
    with (
        serving(bundle, tmp_path, job_kinds=KINDS) as (address, app),
        httpx.Client(base_url=address) as http,
    ):
        yield http, app.state.settings


def test_over_http_wrong_states_are_409(served):
    http, settings = served
    jobs = JobQueue(settings)
    with runner(settings):
        job = begun(jobs)
        assert http.post(f"/v1/jobs/{job.id}/resume").json()["error"]["code"] == "wrong_state"
        assert http.post(f"/v1/jobs/{job.id}/pause").status_code == 202
        assert http.post(f"/v1/jobs/{job.id}/pause").status_code == 409
        stands(jobs, job)
        assert http.get(f"/v1/jobs/{job.id}").json()["state"] == "paused"
        assert http.delete(f"/v1/jobs/{job.id}").status_code == 409
        resumed = http.post(f"/v1/jobs/{job.id}/resume")
        assert (resumed.status_code, resumed.json()["state"]) == (202, "queued")
        until(lambda: http.get(f"/v1/jobs/{job.id}").json()["state"] == "running")
        http.post(f"/v1/jobs/{job.id}/cancel")
        until(lambda: http.get(f"/v1/jobs/{job.id}").json()["state"] == "cancelled")
    assert http.post(f"/v1/jobs/{job.id}/pause").status_code == 409
    assert http.post("/v1/jobs/job_none/pause").status_code == 404


def events(lines):
    """Numbers and data of a stream's events."""
    lines = list(lines)
    numbers = [int(line[4:]) for line in lines if line.startswith("id: ")]
    return list(zip(numbers, [line[6:] for line in lines if line.startswith("data: ")], strict=True))


def test_a_stream_that_was_cut_goes_on_after_the_last_event_without_gap_or_repeat(served):
    http, settings = served
    job = JobQueue(settings).submit("count", {"steps": 12, "seconds": 0.05, "end": "log"})
    with runner(settings):
        first = []
        with http.stream("GET", f"/v1/jobs/{job.id}/events") as stream:
            for line in stream.iter_lines():
                first.append(line)
                if line == "" and len(first) > 12:
                    break  # the connection is cut in the middle of the job
        last = events(first)[-1][0]
        with http.stream("GET", f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": str(last)}) as stream:
            rest = events(stream.iter_lines())
    whole = events(http.get(f"/v1/jobs/{job.id}/events").text.split("\n"))
    assert events(first) + rest == whole
    assert [n for n, _ in whole] == list(range(1, len(whole) + 1))
    assert sum("\\u2028" in data for _, data in whole) == 12
    beyond = http.get(f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": "99999"})
    assert (beyond.status_code, beyond.text) == (200, "")


def test_a_silent_stream_says_that_it_is_there(served, monkeypatch):
    monkeypatch.setattr(routes, "KEEPALIVE_SECONDS", 0.2)
    http, settings = served
    jobs = JobQueue(settings)
    job, lines = jobs.submit("count", {}), []  # nobody runs it
    with http.stream("GET", f"/v1/jobs/{job.id}/events") as stream:
        for line in filter(None, stream.iter_lines()):
            lines.append(line)
            if lines.count(": ping") == 2:
                break
    assert lines[1].startswith("event: state")
    jobs.cancel(job.id)
    assert routes.KEEPALIVE_SECONDS < 15


def test_a_list_of_jobs_comes_page_by_page_without_what_is_long(served):
    http, settings = served
    jobs = JobQueue(settings)
    made = [jobs.submit("count", {"steps": 1}) for _ in range(3)]
    jobs.save(made[2].model_copy(update={"result": {"short": 1, "long": "x" * 9000}}))
    page = http.get("/v1/jobs", params={"limit": 2}).json()
    assert ([j["id"] for j in page["data"]], page["has_more"]) == ([made[2].id, made[1].id], True)
    assert page["data"][0]["result"] == {"short": 1}
    assert http.get(f"/v1/jobs/{made[2].id}").json()["result"].keys() == {"short", "long"}
    rest = http.get("/v1/jobs", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert ([j["id"] for j in rest["data"]], rest["has_more"], rest["next_cursor"]) == ([made[0].id], False, None)
