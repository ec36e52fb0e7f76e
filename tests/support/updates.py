"""Be one update, begun or begun again: `updating.py DATA BUNDLE FILE ID`. Says `begun` when it is about to work."""

import json
import sys
from pathlib import Path

from server.jobs.queue import Jobs
from server.jobs.tasks.sae_update import UpdateOrder, update
from server.jobs.worker import Work
from server.schemas.jobs import Job
from server.settings import Settings


def main() -> None:
    data, bundle, text, job_id = sys.argv[1:]
    settings = Settings(data_dir=Path(data), bundle=Path(bundle), corpus=(Path(text).with_name("old.jsonl"),))
    order = UpdateOrder(text=(text,), steps=100, append=4, live=False)
    job = Job(id=job_id, type="sae_update", config=order.model_dump(mode="json"), created=0)
    work = Work(job, Jobs(settings), 0)
    work.folder.mkdir(exist_ok=True)
    print("begun", flush=True)  # noqa: T201 - its parent waits for it
    print(json.dumps(update(work)), flush=True)  # noqa: T201


main()
