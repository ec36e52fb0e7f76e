"""Job worker: runs one job in its own process and records progress and result."""

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.jobs.priority import die_with_parent, lower_priority
from server.jobs.queue import PAUSE_FILE, RESTING_FILE, JobQueue
from server.schemas.jobs import Job
from server.settings import Settings
from steering.errors import SteeringError
from steering.files import write_atomic


@dataclass(frozen=True)
class JobContext:
    """Context of a job's function: its settings, files and progress."""

    job: Job
    jobs: JobQueue
    started: float

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def config(self) -> Mapping[str, Any]:
        """The job's validated configuration."""
        return self.job.config

    @property
    def folder(self) -> Path:
        """The job's folder, kept across restarts."""
        return self.jobs.folder / self.job.id

    @property
    def settings(self) -> Settings:
        """The server's settings."""
        return self.jobs.settings

    def report_progress(self, progress: float, metrics: Mapping[str, float]) -> None:
        """Report progress, 0 … 1."""
        now = {"share": progress, "metrics": dict(metrics), "at": time.time(), "begun": self.started}
        write_atomic(self.folder / "progress.json", json.dumps(now))
        self.jobs.add_event(self.id, "metric", {"progress": round(progress, 4), **metrics})
        self._rest_while_paused()

    def _rest_while_paused(self) -> None:
        """Block here while the runner has paused the job: nothing is half written where progress is reported.

        The two files are the runner's and the job's; the store may be lost meanwhile, and a running job needs none.
        """
        pause, resting = self.folder / PAUSE_FILE, self.folder / RESTING_FILE
        if not pause.exists():
            return
        resting.touch()
        while pause.exists():
            time.sleep(0.1)
        resting.unlink(missing_ok=True)

    def log(self, line: str) -> None:
        """Write to the job's log."""
        self.jobs.add_event(self.id, "log", {"line": line})


def run_job(jobs: JobQueue, job_id: str) -> None:
    """Main function of a job's process: low priority, ends with its runner."""
    lower_priority()
    die_with_parent()
    work = JobContext(jobs.get(job_id), jobs, time.time())
    _, act = jobs.task(work.job.type)
    try:
        outcome: dict[str, Any] = {"state": "succeeded", "result": act(work)}
    except (SteeringError, OSError) as error:
        outcome = {"state": "failed", "error": str(error)}
    except Exception as error:
        work.log(traceback.format_exc())
        outcome = {"state": "failed", "error": f"internal error: {error!r}; its events have the traceback"}
    write_atomic(work.folder / "end.json", json.dumps(outcome))
