"""Run one update, started or restarted: `updates.py DATA BUNDLE FILE ID`. Prints `begun` before it works."""

import json
import sys
from pathlib import Path

from server.jobs.queue import JobQueue
from server.jobs.tasks.sae_update import SaeUpdateConfig, run
from server.jobs.worker import JobContext
from server.schemas.jobs import Job
from server.settings import Settings


def main() -> None:
    data, bundle, text, job_id = sys.argv[1:]
    settings = Settings(data_dir=Path(data), bundle=Path(bundle), corpus=(Path(text).with_name("old.jsonl"),))
    order = SaeUpdateConfig(text=(text,), steps=100, append=4, live=False)
    job = Job(id=job_id, type="sae_update", config=order.model_dump(mode="json"), created=0)
    work = JobContext(job, JobQueue(settings), 0)
    work.folder.mkdir(exist_ok=True)
    print("begun", flush=True)  # noqa: T201 - the parent process waits for it
    print(json.dumps(run(work)), flush=True)  # noqa: T201


main()
