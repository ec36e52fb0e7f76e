"""Long work in the background: a queue, and what a job's own process does. Knows no routes; who begins the processes is elsewhere.

The queue and what is known of each job lie in huey's storage, a SQLite file or Redis by the same code. A job's own
files, events and progress lie in its folder: begun again, it goes on where its files say.
"""

import importlib
import json
import os
import shutil
import sqlite3
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog
from huey import Huey, SqliteHuey
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from server import validation
from server.files import write
from server.jobs.serializer import Queued
from server.settings import Settings
from server.store.base import BadStore
from steering.errors import SteeringError

log = structlog.get_logger(__name__)
State = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
ENDED = ("succeeded", "failed", "cancelled")
KINDS = {
    "sae_train": "server.sae.training_run:JOB",
    "sae_update": "server.jobs.tasks.sae_update:JOB",
    "calibrate": "server.jobs.tasks.calibrate:JOB",
    "describe": "server.jobs.tasks.describe:JOB",
    "label": "server.jobs.tasks.label:JOB",
    "map": "server.jobs.tasks.map:JOB",
    "sweep": "server.jobs.tasks.sweep:JOB",
}
"""Where each type's schema and function are: a pair that is only imported when it is needed."""


class BadJob(SteeringError):
    """A job that can't be, or can't be changed as asked; the message says why and what can."""


GIVEN = "given.json"
"""In a job's folder, what people gave it, sealed; with the names of who did, by which it can be taken back."""


class Job(BaseModel):
    """One job, as it is now."""

    model_config = ConfigDict(frozen=True)

    id: str
    type: str
    config: dict[str, Any]
    tenant: str = ""
    owner: str | None = None
    """Whose key began it; None where there are none, and for what the trainer began."""
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

    def __init__(self, settings: Settings, *, patient: bool = False) -> None:
        """`patient` is for those who rather wait for a Redis that is lost than fail."""
        self.settings, self.folder = settings, settings.data_dir / "jobs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kinds = {**KINDS, **dict(kind.split("=", 1) for kind in settings.job_kinds)}
        self.huey = _queue(settings, patient=patient)
        self.begin = self.huey.task(name="tiller.job")(lambda job_id: job_id)

    def submit(
        self, type: str, config: Mapping[str, Any], key: str | None = None, *, by: tuple[str, str | None] = ("", None)
    ) -> Job:
        """Queue a job; with a `key` that was used before, return the one from then. Raises BadJob."""
        checked = self._checked(type, config)
        tenant, owner = by
        job = Job(
            id=f"job_{uuid.uuid4().hex[:16]}",
            type=type,
            config=checked,
            tenant=tenant,
            owner=owner,
            created=time.time(),
        )
        if key:
            place = "/".join(filter(None, (*by, key)))  # nobody is told of another's job
            self.huey.storage.put_if_empty(f"key:{place}", job.id.encode())
            first = _text(self.huey.storage.peek_data(f"key:{place}"))
            if first != job.id:
                return self.get(first)
        self.save(job)
        self.note(job.id, "state", {"state": "queued"})
        self.begin(job.id)
        return job

    def get(self, job_id: str) -> Job:
        """One job. Raises BadJob if there is none of that name."""
        raw = self.huey.storage.peek_data(f"job:{job_id}")
        if not isinstance(raw, bytes):
            raise BadJob(f"there is no job {job_id!r}; `tiller jobs ls` lists those there are")
        job = Job.model_validate_json(raw)
        if job.state == "running":
            job = self.with_progress(job)
            if self.has("pause", job_id):
                return job.model_copy(update={"state": "paused", "eta_s": None})
            # Resumed, and its turn has not come; or cancelled, and its process is still there.
            if self.has("resting", job_id) and not self.has("cancel", job_id):
                job = job.model_copy(update={"state": "queued", "eta_s": None})
        if job.state == "queued" and self.has("cancel", job_id):
            return job.model_copy(update={"state": "cancelled"})
        return job

    def all(self) -> list[Job]:
        """All jobs, the newest first."""
        names = [_text(k) for k in self.huey.storage.result_items()]
        found = []
        for name in names:
            try:
                found += [self.get(name.removeprefix("job:"))] if name.startswith("job:") else []
            except BadJob:
                pass  # deleted in between
        return sorted(found, key=lambda j: -j.created)

    def cancel(self, job_id: str) -> Job:
        """Have a job end. Raises BadJob if it has ended."""
        job = self.get(job_id)
        if job.state in ENDED:
            raise BadJob(f"job {job_id!r} has {job.state} already")
        self.huey.storage.put_data(f"cancel:{job_id}", b"1")
        self.huey.storage.pop_data(f"pause:{job_id}")
        return self.get(job_id)

    def pause(self, job_id: str) -> Job:
        """Have a running job stand still until it is resumed. Raises BadJob if it is not running."""
        job = self.get(job_id)
        if job.state != "running":
            raise BadJob(f"job {job_id!r} is {job.state}; only a running job can be paused")
        self.huey.storage.put_data(f"pause:{job_id}", b"1")
        return self.get(job_id)

    def resume(self, job_id: str) -> Job:
        """Have a paused job go on; if another one is being done, after that. Raises BadJob if it is not paused."""
        job = self.get(job_id)
        if job.state != "paused":
            raise BadJob(f"job {job_id!r} is {job.state}; only a paused job can be resumed")
        self.huey.storage.pop_data(f"pause:{job_id}")
        return self.get(job_id)

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended, and its files. Raises BadJob if it has not."""
        job = self.get(job_id)
        if job.state not in ENDED:
            raise BadJob(f"job {job_id!r} is {job.state}; cancel it first")
        self.forget(job_id)

    def forget(self, job_id: str) -> None:
        """Forget a job as if it had never been, and its files."""
        for key in ("job", "cancel", "pause", "resting", "lease", "erase"):
            self.huey.storage.pop_data(f"{key}:{job_id}")
        shutil.rmtree(self.folder / job_id, ignore_errors=True)

    def take_back(self, names: Collection[str], *, theirs: Callable[[Job], bool]) -> int:
        """Forget what people gave to jobs, by their aliases: one that learns from it ends. And all of their own jobs."""
        gone = 0
        for job in self.all():
            given = self.folder / job.id / GIVEN
            try:
                named = not {*names}.isdisjoint(json.loads(given.read_text())["names"])
            except (OSError, ValueError, KeyError):
                named = False
            if named:
                given.unlink(missing_ok=True)
            if theirs(job):
                gone += 1
            if theirs(job) and job.state in (*ENDED, "queued"):
                self.forget(job.id)
                continue
            if theirs(job):  # whoever does it forgets it when its process has ended
                self.huey.storage.put_data(f"erase:{job.id}", b"1")
            if (named or theirs(job)) and job.state not in ENDED:
                self.cancel(job.id)
        self._wipe()
        return gone

    def _wipe(self) -> None:
        """What was deleted is not on disk any more either."""
        if self.settings.redis_url is None:
            try:
                with closing(sqlite3.connect(self.settings.data_dir / "jobs.db", timeout=10)) as db:
                    db.execute("VACUUM")
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.OperationalError as error:
                log.error("deleted jobs may be left in jobs.db until somebody deletes more", why=str(error))

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

    def kind(self, type: str) -> tuple[Any, Callable[["Work"], dict[str, Any]]]:
        """A type's schema and what does it. Raises BadJob with the types there are."""
        if type not in self.kinds:
            raise BadJob(f"no type of job {type!r}; there are {', '.join(self.kinds)}")
        module, _, name = self.kinds[type].partition(":")
        return getattr(importlib.import_module(module), name)

    def with_progress(self, job: Job) -> Job:
        """The job with what its process said last."""
        try:
            now = json.loads((self.folder / job.id / "progress.json").read_text())
        except (OSError, ValueError):
            return job
        left = (now["at"] - now["begun"]) / max(now["share"], 1e-6) * (1 - now["share"])
        return job.model_copy(update={"progress": now["share"], "metrics": now["metrics"], "eta_s": round(left, 1)})

    def save(self, job: Job) -> None:
        """Remember a job as it is."""
        self.huey.storage.put_data(f"job:{job.id}", job.model_dump_json().encode())

    def note(self, job_id: str, event: str, data: Mapping[str, Any]) -> None:
        """Add an event."""
        place = self.folder / job_id
        place.mkdir(exist_ok=True)
        line = json.dumps({"event": event, "data": {**data, "at": round(time.time(), 3)}}, ensure_ascii=False)
        with (place / "events.jsonl").open("a") as file:
            file.write(f"{line}\n")

    def has(self, name: str, job_id: str) -> bool:
        """Whether something is set of a job: `cancel`, `pause`, `resting`, or `job` itself."""
        return isinstance(self.huey.storage.peek_data(f"{name}:{job_id}"), bytes)

    def _checked(self, type: str, config: Mapping[str, Any]) -> dict[str, Any]:
        schema, _ = self.kind(type)
        try:
            return TypeAdapter(schema).dump_python(TypeAdapter(schema).validate_python(dict(config)), mode="json")
        except ValidationError as error:
            problem, said = validation.first(error.errors())
            where = ".".join(map(str, problem["loc"])) or "config"
            raise BadJob(f"{where} of a {type}: {said[0].lower()}{said[1:]}") from error


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
        self.jobs.note(self.id, "metric", {"progress": round(progress, 4), **metrics})

    def log(self, line: str) -> None:
        """Say something."""
        self.jobs.note(self.id, "log", {"line": line})


def do(jobs: Jobs, job_id: str) -> None:
    """Be the job's process: gentle to others, gone when its runner is."""
    give_way()
    die_with_parent()
    work = Work(jobs.get(job_id), jobs, time.time())
    _, act = jobs.kind(work.job.type)
    try:
        told: dict[str, Any] = {"state": "succeeded", "result": act(work)}
    except (SteeringError, OSError) as error:
        told = {"state": "failed", "error": str(error)}
    except Exception as error:
        work.log(traceback.format_exc())
        told = {"state": "failed", "error": f"internal error: {error!r}; its events have the traceback"}
    write(work.folder / "end.json", json.dumps(told))


def _queue(settings: Settings, *, patient: bool) -> Huey:
    if settings.redis_url is None:
        return SqliteHuey(
            "tiller", filename=str(settings.data_dir / "jobs.db"), fsync=True, serializer=Queued(), results=False
        )
    try:
        from server.jobs.redis_storage import RedisQueue
    except ImportError as error:
        raise BadStore("redis_url is set, but Redis' client is not installed: pip install 'tiller[redis]'") from error
    return Huey(
        "tiller", storage_class=RedisQueue, url=settings.redis_url, patient=patient, serializer=Queued(), results=False
    )


def give_way() -> None:
    """Let this process and its threads run on what others leave: on Linux, only while a core has nothing else to do."""
    os.nice(10)
    if hasattr(os, "SCHED_IDLE"):
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:
            pass  # a container may forbid it; the niceness stays


def come_forward() -> None:
    """Take that back for the main thread and the calling one, so that a process which is told to end gets to it on a busy machine."""
    for thread in (os.getpid(), 0) if hasattr(os, "SCHED_IDLE") else ():
        try:
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        except OSError:
            pass  # not everybody may


def die_with_parent() -> None:
    """End as soon as standard input does: whoever began this process holds its other end, and writes nothing."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def _text(stored: object) -> str:
    return stored.decode() if isinstance(stored, bytes) else str(stored)
