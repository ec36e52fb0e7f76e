"""Long work in the background: a queue, and a runner that gives each job a process of its own. Knows no routes.

The queue and what is known of each job lie in huey's storage, a SQLite file or Redis by the same code. A job's own
files, events and progress lie in its folder. Whoever is killed, server, runner or job, the next runner finds
what was left: a job begins again where its files say, three times at most. A paused job stands still and others are
done in the meantime; if its runner ends, it begins again where its files say, but not before it is resumed.
"""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog
from huey import Huey, RedisHuey, SqliteHuey
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from server.files import write
from server.pausing import end, end_orphan, go_on
from server.pausing import stop as stand_still
from server.settings import Settings
from steering.errors import SteeringError

log = structlog.get_logger(__name__)
State = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
ENDED = ("succeeded", "failed", "cancelled")
KINDS = {
    "sae_train": "server.sae_training:JOB",
    "sae_update": "server.trainer:JOB",
    "calibrate": "server.calibrating:JOB",
    "describe": "server.describing:JOB",
    "label": "server.labelling:JOB",
    "map": "server.mapping:JOB",
    "sweep": "server.sweeping:JOB",
}
"""Where each type's schema and function are: a pair that is only imported when it is needed."""
ATTEMPTS = 3
LEASE = 5.0
"""Seconds after which a runner that says nothing is dead."""
GRACE = 5.0
"""Seconds that a cancelled job has to end by itself."""


class BadJob(SteeringError):
    """A job that can't be, or can't be changed as asked; the message says why and what can."""


class Job(BaseModel):
    """One job, as it is now."""

    model_config = ConfigDict(frozen=True)

    id: str
    type: str
    config: dict[str, Any]
    state: State = "queued"
    progress: float = 0.0
    eta_s: float | None = None
    created: float
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    metrics: dict[str, float] = {}
    error: str | None = None
    result: dict[str, Any] = {}


class Jobs:
    """The queue of one data directory. Several processes may hold it at once."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.folder = settings, settings.data_dir / "jobs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kinds = {**KINDS, **dict(kind.split("=", 1) for kind in settings.job_kinds)}
        self._huey: Huey = (
            RedisHuey("tiller", url=settings.redis_url)
            if settings.redis_url
            else SqliteHuey("tiller", filename=str(settings.data_dir / "jobs.db"), fsync=True)
        )
        self._begin = self._huey.task(name="tiller.job")(lambda job_id: job_id)
        self._resting: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
        """Jobs of this runner that stand still."""

    def submit(self, type: str, config: Mapping[str, Any], key: str | None = None) -> Job:
        """Queue a job; with a `key` that was used before, return the one from then. Raises BadJob."""
        checked = self._checked(type, config)
        job = Job(id=f"job_{uuid.uuid4().hex[:16]}", type=type, config=checked, created=time.time())
        if key:
            self._huey.storage.put_if_empty(f"key:{key}", job.id.encode())
            first = _text(self._huey.storage.peek_data(f"key:{key}"))
            if first != job.id:
                return self.get(first)
        self._save(job)
        self._event(job.id, "state", {"state": "queued"})
        self._begin(job.id)
        return job

    def get(self, job_id: str) -> Job:
        """One job. Raises BadJob if there is none of that name."""
        raw = self._huey.storage.peek_data(f"job:{job_id}")
        if not isinstance(raw, bytes):
            raise BadJob(f"there is no job {job_id!r}; `tiller jobs ls` lists those there are")
        job = Job.model_validate_json(raw)
        if job.state == "running":
            job = self._with_progress(job)
            if self._flag("pause", job_id):
                return job.model_copy(update={"state": "paused", "eta_s": None})
            if self._flag("resting", job_id):  # resumed, and its turn has not come
                job = job.model_copy(update={"state": "queued", "eta_s": None})
        if job.state == "queued" and self._flag("cancel", job_id):
            return job.model_copy(update={"state": "cancelled"})
        return job

    def all(self) -> list[Job]:
        """All jobs, the newest first."""
        names = [_text(k) for k in self._huey.storage.result_items()]
        found = [self.get(name.removeprefix("job:")) for name in names if name.startswith("job:")]
        return sorted(found, key=lambda j: -j.created)

    def cancel(self, job_id: str) -> Job:
        """Have a job end. Raises BadJob if it has ended."""
        job = self.get(job_id)
        if job.state in ENDED:
            raise BadJob(f"job {job_id!r} has {job.state} already")
        self._huey.storage.put_data(f"cancel:{job_id}", b"1")
        self._huey.storage.pop_data(f"pause:{job_id}")
        return self.get(job_id)

    def pause(self, job_id: str) -> Job:
        """Have a running job stand still until it is resumed. Raises BadJob if it is not running."""
        job = self.get(job_id)
        if job.state != "running":
            raise BadJob(f"job {job_id!r} is {job.state}; only a running job can be paused")
        self._huey.storage.put_data(f"pause:{job_id}", b"1")
        return self.get(job_id)

    def resume(self, job_id: str) -> Job:
        """Have a paused job go on; if another one is being done, after that. Raises BadJob if it is not paused."""
        job = self.get(job_id)
        if job.state != "paused":
            raise BadJob(f"job {job_id!r} is {job.state}; only a paused job can be resumed")
        self._huey.storage.pop_data(f"pause:{job_id}")
        return self.get(job_id)

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended, and its files. Raises BadJob if it has not."""
        job = self.get(job_id)
        if job.state not in ENDED:
            raise BadJob(f"job {job_id!r} is {job.state}; cancel it first")
        for key in ("job", "cancel", "pause", "resting", "lease"):
            self._huey.storage.pop_data(f"{key}:{job_id}")
        shutil.rmtree(self.folder / job_id, ignore_errors=True)

    def events(self, job_id: str, after: int = 0) -> list[dict[str, Any]]:
        """What has happened since event number `after`: `{"id", "event", "data"}`. Raises BadJob."""
        self.get(job_id)
        file = self.folder / job_id / "events.jsonl"
        lines = file.read_text().split("\n") if file.exists() else []  # other ends of lines may stand in what was said
        return [{"id": i, **json.loads(line)} for i, line in enumerate(lines, 1) if i > after and line.endswith("}")]

    def artifacts(self, job_id: str) -> list[Path]:
        """The job's files. Raises BadJob."""
        self.get(job_id)
        return sorted(p for p in (self.folder / job_id).rglob("*") if p.is_file())

    def run(self, stop: threading.Event) -> None:
        """Do jobs, one at a time, until `stop`; what others have left is taken up first."""
        self._take_up()
        looked = time.monotonic()
        while not stop.is_set():
            if resumed := self._look_after_resting():
                self._go_on(resumed, stop)
            elif (task := self._huey.dequeue()) is not None:
                self._do(task.args[0], stop)
            elif time.monotonic() - looked > LEASE:
                self._take_up()
                looked = time.monotonic()
            else:
                stop.wait(0.3)
        for job_id in [*self._resting]:
            self._give_up(job_id)

    def _take_up(self) -> None:
        """Queue again what a dead runner was doing, or had in its hands; what is paused waits until it is resumed."""
        waiting = {task.args[0] for task in self._huey.pending()}
        for job in self.all():
            if self._leased(job.id) or job.state in ENDED:
                continue
            end_orphan(self.folder / job.id / "pid", job.id)
            lost = job.state == "queued" and job.id not in waiting and time.time() - job.created > LEASE
            if job.state == "running" or lost:
                self._save(job.model_copy(update={"state": "queued"}))
                self._begin(job.id)

    def _look_after_resting(self) -> str | None:
        """Keep what stands still; end what was cancelled. Returns a job that was resumed, if there is one."""
        resumed = None
        for job_id in [*self._resting]:
            self._lease(job_id)
            job, child = self._resting[job_id]
            if self._flag("cancel", job_id) or not self._flag("job", job_id):
                del self._resting[job_id]
                end(child.pid)
                self._over(job, child)
            elif not self._flag("pause", job_id):
                resumed = resumed or job_id
        return resumed

    def _go_on(self, job_id: str, stop: threading.Event) -> None:
        job, child = self._resting.pop(job_id)
        self._huey.storage.pop_data(f"resting:{job_id}")
        self._event(job_id, "state", {"state": "running"})
        go_on(child.pid)
        self._attend(job, child, stop)

    def _give_up(self, job_id: str) -> None:
        """This runner ends: what stood still begins again where its files say, if it is paused when it is resumed."""
        job, child = self._resting.pop(job_id)
        end(child.pid)
        self._over(job, child, stopped=True, wait=self._flag("pause", job_id))
        self._huey.storage.pop_data(f"lease:{job_id}")

    def _do(self, job_id: str, stop: threading.Event) -> None:
        try:
            job = self.get(job_id)
        except BadJob:
            return  # deleted
        if job.state == "cancelled":
            self._end(job, "cancelled")
            return
        claim = f"claim:{job_id}:{job.attempts}"
        if job.state != "queued" or not self._huey.storage.put_if_empty(claim, b"1"):
            return  # another runner has it
        self._lease(job_id)
        if job.attempts >= ATTEMPTS:
            self._end(job, "failed", f"it was begun {ATTEMPTS} times and each time its process died; see its events")
            return
        self._huey.storage.pop_data(f"resting:{job_id}")
        started = job.started or time.time()
        job = job.model_copy(update={"state": "running", "started": started, "attempts": job.attempts + 1})
        self._save(job)
        self._event(job_id, "state", {"state": "running", "attempt": job.attempts})
        self._watch(job, stop)

    def _watch(self, job: Job, stop: threading.Event) -> None:
        """Run the job's process; it dies with this one, as its standard input closes."""
        place = self.folder / job.id
        (place / "end.json").unlink(missing_ok=True)
        words = [sys.executable, "-m", "server", "job", job.id, "--settings", self.settings.model_dump_json()]
        with (place / "output.log").open("ab") as output:
            child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True)
        write(place / "pid", str(child.pid))
        self._attend(job, child, stop)

    def _attend(self, job: Job, child: "subprocess.Popen[bytes]", stop: threading.Event) -> None:
        """Stay with a job until it ends or is paused."""
        asked = False
        while child.poll() is None:
            self._lease(job.id)
            self._look_after_resting()
            if not asked and (stop.is_set() or self._flag("cancel", job.id)):
                asked = True
                _end_group(child)
            elif not asked and self._flag("pause", job.id) and stand_still(child.pid, self.settings.data_dir):
                self._resting[job.id] = job, child
                self._huey.storage.put_data(f"resting:{job.id}", b"1")
                self._event(job.id, "state", {"state": "paused"})
                return
            time.sleep(0.1)
        self._over(job, child, stopped=stop.is_set())

    def _over(self, job: Job, child: "subprocess.Popen[bytes]", *, stopped: bool = False, wait: bool = False) -> None:
        """Its process has ended: well, or told to, or it begins again; with `wait`, when somebody says so."""
        child.wait()
        assert child.stdin
        child.stdin.close()
        place = self.folder / job.id
        (place / "pid").unlink(missing_ok=True)
        if not self._flag("job", job.id):
            return  # deleted
        if self._flag("cancel", job.id):
            self._end(job, "cancelled")
        elif (place / "end.json").exists():
            told = json.loads((place / "end.json").read_text())
            self._end(job, told["state"], told.get("error"), told.get("result", {}))
        else:
            state: State = "running" if wait else "queued"
            again = job.model_copy(update={"state": state, "attempts": job.attempts - stopped})
            if stopped:  # not its fault: it does not count
                self._huey.storage.pop_data(f"claim:{job.id}:{again.attempts}")
            self._save(again)
            self._event(job.id, "log", {"line": f"its process ended with {child.returncode}; it will be begun again"})
            if not wait:
                self._begin(job.id)

    def _end(self, job: Job, state: State, error: str | None = None, result: Mapping[str, Any] | None = None) -> None:
        now = self._with_progress(job)
        for flag in ("pause", "resting"):
            self._huey.storage.pop_data(f"{flag}:{job.id}")
        changes = {"state": state, "ended": time.time(), "error": error, "result": dict(result or {}), "eta_s": None}
        self._save(now.model_copy(update=changes | ({"progress": 1.0} if state == "succeeded" else {})))
        self._event(job.id, "state", {"state": state} | ({"error": error} if error else {}))

    def _checked(self, type: str, config: Mapping[str, Any]) -> dict[str, Any]:
        schema, _ = self._kind(type)
        try:
            return TypeAdapter(schema).dump_python(TypeAdapter(schema).validate_python(dict(config)), mode="json")
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "config"
            raise BadJob(f"{where} of a {type}: {first['msg'][0].lower()}{first['msg'][1:]}") from error

    def _kind(self, type: str) -> tuple[Any, Callable[["Work"], dict[str, Any]]]:
        if type not in self.kinds:
            raise BadJob(f"no type of job {type!r}; there are {', '.join(self.kinds)}")
        module, _, name = self.kinds[type].partition(":")
        return getattr(importlib.import_module(module), name)

    def _with_progress(self, job: Job) -> Job:
        try:
            now = json.loads((self.folder / job.id / "progress.json").read_text())
        except (OSError, ValueError):
            return job
        left = (now["at"] - now["begun"]) / max(now["share"], 1e-6) * (1 - now["share"])
        return job.model_copy(update={"progress": now["share"], "metrics": now["metrics"], "eta_s": round(left, 1)})

    def _save(self, job: Job) -> None:
        self._huey.storage.put_data(f"job:{job.id}", job.model_dump_json().encode())

    def _event(self, job_id: str, event: str, data: Mapping[str, Any]) -> None:
        place = self.folder / job_id
        place.mkdir(exist_ok=True)
        line = json.dumps({"event": event, "data": {**data, "at": round(time.time(), 3)}}, ensure_ascii=False)
        with (place / "events.jsonl").open("a") as file:
            file.write(f"{line}\n")

    def _flag(self, name: str, job_id: str) -> bool:
        return isinstance(self._huey.storage.peek_data(f"{name}:{job_id}"), bytes)

    def _lease(self, job_id: str) -> None:
        self._huey.storage.put_data(f"lease:{job_id}", str(time.time()).encode())

    def _leased(self, job_id: str) -> bool:
        held = self._huey.storage.peek_data(f"lease:{job_id}")
        return isinstance(held, bytes) and time.time() - float(held) < LEASE


@dataclass(frozen=True)
class Work:
    """What a job's function is given."""

    job: Job
    jobs: Jobs
    begun: float

    @property
    def id(self) -> str:
        """The job's."""
        return self.job.id

    @property
    def config(self) -> Mapping[str, Any]:
        """What was asked for, checked."""
        return self.job.config

    @property
    def folder(self) -> Path:
        """Its own, which is there again when it is begun again."""
        return self.jobs.folder / self.job.id

    @property
    def settings(self) -> Settings:
        """The server's."""
        return self.jobs.settings

    def tell(self, progress: float, metrics: Mapping[str, float]) -> None:
        """Say how far it is, 0 … 1."""
        now = {"share": progress, "metrics": dict(metrics), "at": time.time(), "begun": self.begun}
        write(self.folder / "progress.json", json.dumps(now))
        self.jobs._event(self.id, "metric", {"progress": round(progress, 4), **metrics})

    def log(self, line: str) -> None:
        """Say something."""
        self.jobs._event(self.id, "log", {"line": line})


def do(jobs: Jobs, job_id: str) -> None:
    """Be the job's process: gentle to others, gone when its runner is."""
    give_way()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    work = Work(jobs.get(job_id), jobs, time.time())
    _, act = jobs._kind(work.job.type)
    try:
        told: dict[str, Any] = {"state": "succeeded", "result": act(work)}
    except (SteeringError, OSError) as error:
        told = {"state": "failed", "error": str(error)}
    except Exception as error:
        work.log(traceback.format_exc())
        told = {"state": "failed", "error": f"internal error: {error!r}; its events have the traceback"}
    write(work.folder / "end.json", json.dumps(told))


def give_way() -> None:
    """Let this process and its threads run on what others leave: on Linux, only while a core has nothing else to do."""
    os.nice(10)
    if hasattr(os, "SCHED_IDLE"):
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:
            pass  # a container may forbid it; the niceness stays


def _die_with_parent() -> None:
    while os.read(0, 4096):  # the runner writes nothing: what comes is the end
        pass
    os._exit(3)


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the job and all that it began, SIGKILL to what is left after a while."""

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


def _text(stored: object) -> str:
    return stored.decode() if isinstance(stored, bytes) else str(stored)
