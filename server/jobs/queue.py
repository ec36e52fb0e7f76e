"""Job queue: submits, lists, pauses and cancels background jobs.

The queue and the jobs' states are in huey's storage, a SQLite file or Redis by the same code. A
job's files, events and progress are in its folder: after a restart it continues from its files.
"""

import importlib
import json
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from huey import Huey, SqliteHuey
from pydantic import TypeAdapter, ValidationError

from server import validation
from server.jobs.registry import TASKS
from server.jobs.serializer import JobMessageSerializer
from server.schemas.jobs import ENDED, Job
from server.settings import Settings
from server.store.base import BadStore
from steering.errors import SteeringError

if TYPE_CHECKING:
    from server.jobs.worker import JobContext

log = structlog.get_logger(__name__)


class BadJob(SteeringError):
    """Invalid job, or invalid change of one; the message says why and what is possible."""


PAUSE_FILE, RESTING_FILE = ".pause", ".resting"
"""In a job's folder: the runner asks its process to pause, and the process has paused."""
GIVEN_FILE = "given.json"
"""File in a job's folder with the users' texts, encrypted, and their aliases, by which they can be deleted."""


class JobQueue:
    """The queue of one data directory. Several processes can open it at once."""

    def __init__(self, settings: Settings, *, patient: bool = False) -> None:
        """`patient` callers wait for an unavailable Redis instead of failing."""
        self.settings, self.folder = settings, settings.data_dir / "jobs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kinds = {**TASKS, **dict(kind.split("=", 1) for kind in settings.job_kinds)}
        self.huey = _open_huey(settings, patient=patient)
        self.begin = self.huey.task(name="tiller.job")(lambda job_id: job_id)

    def submit(
        self, type: str, config: Mapping[str, Any], key: str | None = None, *, by: tuple[str, str | None] = ("", None)
    ) -> Job:
        """Queue a job; a `key` used before returns the earlier job. Raises BadJob."""
        checked = self._check_config(type, config)
        tenant, owner = by
        job = Job(
            id=f"job_{uuid.uuid4().hex[:16]}",
            type=type,
            config=checked,
            tenant=tenant,
            owner=owner,
            created=self.now(),
        )
        if key:
            place = f"key:{json.dumps([*by, key])}"  # the existence of another owner's job is not disclosed
            self.save(job)  # before the key, which belongs to nobody once its job is not there
            if first := self._first_of(place, job.id):
                self.huey.storage.pop_data(f"job:{job.id}")
                return first
        self.save(job)
        self.add_event(job.id, "state", {"state": "queued"})
        self.begin(job.id)
        return job

    def _first_of(self, place: str, job_id: str) -> Job | None:
        """The job that a key was used for; None if it is this one's from now on, as it is where that job was deleted."""
        while not self.huey.storage.put_if_empty(place, job_id.encode()):
            held = _text(self.huey.storage.peek_data(place))
            if held == job_id:
                break
            if self._exists(held):
                return self.get(held)
            self.huey.storage.pop_data(place)
        return None

    def _exists(self, job_id: str) -> bool:
        return isinstance(self.huey.storage.peek_data(f"job:{job_id}"), bytes)

    def now(self) -> float:
        """The time by the store's clock, where it has one: those of several machines differ."""
        clock = getattr(self.huey.storage, "now", None)
        return clock() if clock else time.time()

    def get(self, job_id: str) -> Job:
        """One job. Raises BadJob for an unknown id."""
        raw = self.huey.storage.peek_data(f"job:{job_id}")
        if not isinstance(raw, bytes):
            raise BadJob(f"there is no job {job_id!r}; `tiller jobs ls` lists the jobs")
        job = Job.model_validate_json(raw)
        if job.state == "running":
            job = self.with_progress(job)
            if self.has_flag("pause", job_id):
                return job.model_copy(update={"state": "paused", "eta_s": None})
            # Resumed but not running yet; or cancelled while its process still exists.
            if self.has_flag("resting", job_id) and not self.has_flag("cancel", job_id):
                job = job.model_copy(update={"state": "queued", "eta_s": None})
        if job.state == "queued" and self.has_flag("cancel", job_id):
            return job.model_copy(update={"state": "cancelled"})
        return job

    def all(self) -> list[Job]:
        """All jobs, newest first."""
        names = [_text(k) for k in self.huey.storage.result_items()]
        found = []
        for name in names:
            try:
                found += [self.get(name.removeprefix("job:"))] if name.startswith("job:") else []
            except BadJob:
                pass  # deleted in between
        return sorted(found, key=lambda j: -j.created)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job. Raises BadJob if it has ended."""
        job = self.get(job_id)
        if job.state in ENDED:
            raise BadJob(f"job {job_id!r} has {job.state} already")
        self.set_flag("cancel", job_id)
        self.remove_flag("pause", job_id)
        return self.get(job_id)

    def pause(self, job_id: str) -> Job:
        """Pause a running job until it is resumed. Raises BadJob if it is not running."""
        self._check_state(job_id, "running", "paused")
        self.set_flag("pause", job_id)
        return self.get(job_id)

    def resume(self, job_id: str) -> Job:
        """Resume a paused job; if another one is running, after that. Raises BadJob if it is not paused."""
        self._check_state(job_id, "paused", "resumed")
        self.remove_flag("pause", job_id)
        return self.get(job_id)

    def _check_state(self, job_id: str, state: str, act: str) -> None:
        job = self.get(job_id)
        if job.state != state:
            raise BadJob(f"job {job_id!r} is {job.state}; only a {state} job can be {act}")

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, and its files. Raises BadJob if it has not."""
        job = self.get(job_id)
        if job.state not in ENDED:
            raise BadJob(f"job {job_id!r} is {job.state}; cancel it first")
        self.forget(job_id)

    def forget(self, job_id: str) -> None:
        """Delete every trace of a job, and its files."""
        for key in ("job", "cancel", "pause", "resting", "lease", "erase"):
            self.huey.storage.pop_data(f"{key}:{job_id}")
        for name, held in self.huey.storage.result_items().items():
            if _text(name).startswith("key:") and held == job_id.encode():
                self.huey.storage.pop_data(_text(name))
        shutil.rmtree(self.folder / job_id, ignore_errors=True)

    def erase_given(self, names: Collection[str], *, theirs: Callable[[Job], bool]) -> int:
        """Delete users' texts from jobs, by alias; jobs that train on them end. Deletes the users' own jobs as well."""
        gone = 0
        for job in self.all():
            texts = self.folder / job.id / GIVEN_FILE
            try:
                named = not {*names}.isdisjoint(json.loads(texts.read_text())["names"])
            except (OSError, ValueError, KeyError):
                named = False
            if named:
                texts.unlink(missing_ok=True)
            if theirs(job):
                gone += 1
            if theirs(job) and job.state in (*ENDED, "queued"):
                self.forget(job.id)
                continue
            if theirs(job):  # the runner deletes it when its process has ended
                self.set_flag("erase", job.id)
            if (named or theirs(job)) and job.state not in ENDED:
                self.cancel(job.id)
        self._vacuum()
        return gone

    def _vacuum(self) -> None:
        """Remove deleted data from disk."""
        if self.settings.redis_url is None:
            try:
                with closing(sqlite3.connect(self.settings.data_dir / "jobs.db", timeout=10)) as db:
                    db.execute("VACUUM")
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.OperationalError as error:
                log.error("deleted jobs may remain in jobs.db until the next deletion", why=str(error))

    def events(self, job_id: str, after: int = 0) -> list[dict[str, Any]]:
        """Events after number `after`: `{"id", "event", "data"}`. Raises BadJob."""
        self.get(job_id)
        file = self.folder / job_id / "events.jsonl"
        lines = file.read_text().split("\n") if file.exists() else []  # messages may contain other line ends
        return [{"id": i, **json.loads(line)} for i, line in enumerate(lines, 1) if i > after and line.endswith("}")]

    def artifacts(self, job_id: str) -> list[Path]:
        """The job's files. Raises BadJob."""
        self.get(job_id)
        return sorted(p for p in (self.folder / job_id).rglob("*") if p.is_file() and not p.name.startswith("."))

    def task(self, type: str) -> tuple[Any, Callable[["JobContext"], dict[str, Any]]]:
        """Schema and function of a job type. Raises BadJob with the known types."""
        if type not in self.kinds:
            raise BadJob(f"unknown job type {type!r}; the types are {', '.join(self.kinds)}")
        module, _, name = self.kinds[type].partition(":")
        return getattr(importlib.import_module(module), name)

    def with_progress(self, job: Job) -> Job:
        """The job with its process' latest progress."""
        try:
            now = json.loads((self.folder / job.id / "progress.json").read_text())
        except (OSError, ValueError):
            return job
        left = (now["at"] - now["begun"]) / max(now["share"], 1e-6) * (1 - now["share"])
        return job.model_copy(update={"progress": now["share"], "metrics": now["metrics"], "eta_s": round(left, 1)})

    def save(self, job: Job) -> None:
        """Store a job's state."""
        self.huey.storage.put_data(f"job:{job.id}", job.model_dump_json().encode())

    def add_event(self, job_id: str, event: str, data: Mapping[str, Any]) -> None:
        """Add an event."""
        place = self.folder / job_id
        place.mkdir(exist_ok=True)
        line = json.dumps({"event": event, "data": {**data, "at": round(time.time(), 3)}}, ensure_ascii=False)
        with (place / "events.jsonl").open("a") as file:
            file.write(f"{line}\n")

    def set_flag(self, name: str, job_id: str) -> None:
        """Set a flag of a job: `cancel`, `pause`, `resting` or `erase`."""
        self.huey.storage.put_data(f"{name}:{job_id}", b"1")

    def remove_flag(self, name: str, job_id: str) -> None:
        """Remove a flag of a job, if it is set."""
        self.huey.storage.pop_data(f"{name}:{job_id}")

    def has_flag(self, name: str, job_id: str) -> bool:
        """Whether a flag of a job is set: `cancel`, `pause`, `resting`, or `job` itself."""
        return isinstance(self.huey.storage.peek_data(f"{name}:{job_id}"), bytes)

    def _check_config(self, type: str, config: Mapping[str, Any]) -> dict[str, Any]:
        schema, _ = self.task(type)
        try:
            return TypeAdapter(schema).dump_python(TypeAdapter(schema).validate_python(dict(config)), mode="json")
        except ValidationError as error:
            problem, message = validation.first_error(error.errors())
            where = ".".join(map(str, problem["loc"])) or "config"
            raise BadJob(f"{where} of a {type}: {message[0].lower()}{message[1:]}") from error


def _open_huey(settings: Settings, *, patient: bool) -> Huey:
    if settings.redis_url is None:
        return SqliteHuey(
            "tiller",
            filename=str(settings.data_dir / "jobs.db"),
            fsync=True,
            serializer=JobMessageSerializer(),
            results=False,
        )
    try:
        from server.jobs.redis_storage import RedisJobStorage
    except ImportError as error:
        raise BadStore("redis_url is set, but Redis' client is not installed: pip install 'tiller[redis]'") from error
    return Huey(
        "tiller",
        storage_class=RedisJobStorage,
        url=settings.redis_url,
        patient=patient,
        serializer=JobMessageSerializer(),
        results=False,
    )


def _text(stored: object) -> str:
    return stored.decode() if isinstance(stored, bytes) else str(stored)
