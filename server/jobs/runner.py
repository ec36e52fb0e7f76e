"""Job runner: runs the jobs of a queue one at a time, each in its own process.

After a crash of the runner or a job, the next runner recovers what was left. A paused job's process
waits where it reports progress, and other jobs run in the meantime; if its runner ends, the job
restarts from its files once it is resumed.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import structlog
from huey.exceptions import HueyException

from server.jobs.queue import GIVEN_FILE, PAUSE_FILE, RESTING_FILE, BadJob, JobQueue
from server.schemas.jobs import Job, State
from server.settings import child_environment

log = structlog.get_logger(__name__)

ATTEMPTS = 3
LEASE = 5.0
"""Seconds without renewal after which a runner counts as dead."""
GRACE = 5.0
"""Seconds that a cancelled job has to end before it is killed."""


class Runner:
    """Runs jobs. Several runners can share a queue."""

    def __init__(self, jobs: JobQueue) -> None:
        self.jobs = jobs
        self._resting: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
        """Paused jobs whose processes wait."""

    def run(self, stop: threading.Event) -> None:
        """Run jobs, one at a time, until `stop`; jobs left by dead runners come first."""
        self._recover_abandoned()
        checked = time.monotonic()
        while not stop.is_set():
            if resumed := self._check_paused_jobs():
                self._continue_paused(resumed, stop)
            elif (job_id := self._next()) is not None:
                self._claim(job_id, stop)
            elif time.monotonic() - checked > LEASE:
                self._recover_abandoned()
                checked = time.monotonic()
            else:
                stop.wait(0.3)
        for job_id in [*self._resting]:
            self._release_paused(job_id)

    def _next(self) -> str | None:
        """Id of the next job in the queue; invalid entries are dropped."""
        while True:
            try:
                task = self.jobs.huey.dequeue()
            except (ValueError, HueyException) as error:
                log.warning("dropped an invalid entry of the job queue", why=str(error))
            else:
                return None if task is None else task.args[0]

    def _recover_abandoned(self) -> None:
        """Queue again the jobs of dead runners; paused ones wait until they are resumed."""
        waiting = {task.args[0] for task in self.jobs.huey.pending()}
        for job in self.jobs.all():
            if self._leased(job.id):
                continue
            lost = job.state == "queued" and job.id not in waiting and self.jobs.now() - job.created > LEASE
            if job.state == "running" or lost:
                self.jobs.save(job.model_copy(update={"state": "queued"}))
                self.jobs.begin(job.id)

    def _check_paused_jobs(self) -> str | None:
        """Renew the leases of paused jobs and end cancelled ones. Returns a resumed job, if there is one."""
        resumed = None
        for job_id in [*self._resting]:
            self._lease(job_id)
            job, child = self._resting[job_id]
            if self.jobs.has_flag("cancel", job_id) or not self.jobs.has_flag("job", job_id):
                del self._resting[job_id]
                _kill_group(child)
                self._finish(job, child)
            elif not self.jobs.has_flag("pause", job_id):
                resumed = resumed or job_id
        return resumed

    def _continue_paused(self, job_id: str, stop: threading.Event) -> None:
        job, child = self._resting.pop(job_id)
        self.jobs.add_event(job_id, "state", {"state": "running"})
        self.jobs.remove_flag("resting", job_id)
        (self.jobs.folder / job_id / PAUSE_FILE).unlink(missing_ok=True)
        self._supervise(job, child, stop)

    def _release_paused(self, job_id: str) -> None:
        """This runner ends: a paused job restarts from its files when it is resumed."""
        job, child = self._resting.pop(job_id)
        _kill_group(child)
        self._finish(job, child, stopped=True, wait=self.jobs.has_flag("pause", job_id))
        self.jobs.huey.storage.pop_data(f"lease:{job_id}")

    def _claim(self, job_id: str, stop: threading.Event) -> None:
        try:
            job = self.jobs.get(job_id)
        except BadJob:
            return  # deleted
        if job.state == "cancelled":
            self._end(job, "cancelled")
            return
        claim = f"claim:{job_id}:{job.attempts}"
        if job.state != "queued" or not self.jobs.huey.storage.put_if_empty(claim, b"1"):
            return  # another runner has it
        self._lease(job_id)
        if job.attempts >= ATTEMPTS:
            self._end(job, "failed", f"it was started {ATTEMPTS} times and each time its process died; see its events")
            return
        self.jobs.remove_flag("resting", job_id)
        started = job.started or time.time()
        job = job.model_copy(update={"state": "running", "started": started, "attempts": job.attempts + 1})
        self.jobs.save(job)
        self.jobs.add_event(job_id, "state", {"state": "running", "attempt": job.attempts})
        self._start(job, stop)

    def _start(self, job: Job, stop: threading.Event) -> None:
        """Start the job's process; it ends with this one, as its standard input closes."""
        place = self.jobs.folder / job.id
        for name in ("end.json", PAUSE_FILE, RESTING_FILE):
            (place / name).unlink(missing_ok=True)
        words = [sys.executable, "-m", "server", "job", job.id]
        with (place / "output.log").open("ab") as output:
            child = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=child_environment(self.jobs.settings),
            )
        self._supervise(job, child, stop)

    def _supervise(self, job: Job, child: "subprocess.Popen[bytes]", stop: threading.Event) -> None:
        """Supervise a job until it ends or is paused."""
        asked, place = False, self.jobs.folder / job.id
        while child.poll() is None:
            self._lease(job.id)
            self._check_paused_jobs()
            if not asked and (stop.is_set() or self.jobs.has_flag("cancel", job.id)):
                asked = True
                _end_group(child)
            elif not asked and self.jobs.has_flag("pause", job.id):
                (place / PAUSE_FILE).touch()
                if (place / RESTING_FILE).exists():
                    self._resting[job.id] = job, child
                    self.jobs.set_flag("resting", job.id)
                    self.jobs.add_event(job.id, "state", {"state": "paused"})
                    return
            else:
                (place / PAUSE_FILE).unlink(missing_ok=True)
            time.sleep(0.1)
        self._finish(job, child, stopped=stop.is_set())

    def _finish(self, job: Job, child: "subprocess.Popen[bytes]", *, stopped: bool = False, wait: bool = False) -> None:
        """Record how a job's process ended: done, cancelled, or to be restarted; with `wait`, only
        when it is resumed."""
        child.wait()
        assert child.stdin
        child.stdin.close()
        place = self.jobs.folder / job.id
        if not self.jobs.has_flag("job", job.id):
            return  # deleted
        if self.jobs.has_flag("cancel", job.id):
            self._end(job, "cancelled")
        elif (place / "end.json").exists():
            outcome = json.loads((place / "end.json").read_text())
            self._end(job, outcome["state"], outcome.get("error"), outcome.get("result", {}))
        else:
            state: State = "running" if wait else "queued"
            again = job.model_copy(update={"state": state, "attempts": job.attempts - stopped})
            if stopped:  # not the job's fault: does not count as an attempt
                self.jobs.huey.storage.pop_data(f"claim:{job.id}:{again.attempts}")
            self.jobs.save(again)
            self.jobs.add_event(
                job.id, "log", {"line": f"its process ended with {child.returncode}; it will be restarted"}
            )
            if not wait:
                self.jobs.begin(job.id)

    def _end(self, job: Job, state: State, error: str | None = None, result: Mapping[str, Any] | None = None) -> None:
        if self.jobs.has_flag("erase", job.id):
            self.jobs.forget(job.id)
            return
        now = self.jobs.with_progress(job)
        for flag in ("pause", "resting"):
            self.jobs.remove_flag(flag, job.id)
        changes = {"state": state, "ended": time.time(), "error": error, "result": dict(result or {}), "eta_s": None}
        # The event first: clients follow the job until it has ended, and read no further.
        self.jobs.add_event(job.id, "state", {"state": state} | ({"error": error} if error else {}))
        self.jobs.save(now.model_copy(update=changes | ({"progress": 1.0} if state == "succeeded" else {})))
        (self.jobs.folder / job.id / GIVEN_FILE).unlink(missing_ok=True)  # whatever the result

    def _lease(self, job_id: str) -> None:
        self.jobs.huey.storage.put_data(f"lease:{job_id}", str(self.jobs.now()).encode())

    def _leased(self, job_id: str) -> bool:
        held = self.jobs.huey.storage.peek_data(f"lease:{job_id}")
        return isinstance(held, bytes) and self.jobs.now() - float(held) < LEASE


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to the job's process and all its children."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the job's process and all its children, SIGKILL to the rest after a while."""

    def end() -> None:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(child.pid, kind)
            except ProcessLookupError:
                return
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue
            return

    threading.Thread(target=end, daemon=True).start()
