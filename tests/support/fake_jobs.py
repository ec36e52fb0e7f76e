"""Fake job kinds for tests: jobs that succeed, run long, fail, or are killed."""

import os
import time

from pydantic import BaseModel, ConfigDict

from steering.errors import SteeringError
from tests.support.waiting import until


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: int = 3
    seconds: float = 0.0
    holds: int | None = None
    """Step at which the job waits until `go_on` is called."""
    end: str = "well"


GO = "go"


def go_on(folder):
    """Let the job of a folder continue."""
    (folder / GO).touch()


def act(work):
    """Count to `steps`, one line in a file per step; a restarted job continues the count."""
    file = work.folder / "counted"
    counted = len(file.read_text()) if file.exists() else 0
    work.log(f"begun at {counted}")
    (work.folder / "pid").write_text(str(os.getpid()))
    while counted < work.config["steps"]:
        time.sleep(work.config["seconds"])
        until(lambda: counted != work.config["holds"] or (work.folder / GO).exists())  # noqa: B023 - called at once
        with file.open("a") as out:
            out.write("x")
        counted += 1
        work.report_progress(counted / work.config["steps"], {"counted": counted})
        if work.config["end"] == "log":
            work.log(f"one\u2028line\u0085of {counted}")
    if work.config["end"] == "fail":
        raise SteeringError("there is too little of everything")
    if work.config["end"] == "break":
        raise RuntimeError("a bug")
    if work.config["end"] == "die":
        os.kill(os.getpid(), 9)
    return {"counted": counted}


JOB = (Config, act)
