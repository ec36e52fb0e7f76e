"""`tiller jobs …`: the job queue of a data directory, with or without a running server."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from server.cli.errors import or_exit
from server.cli.options import settings_from_options
from server.cli.tables import AsJson, print_list
from server.cli.terminal import TerminalConsole
from server.jobs.queue import JobQueue
from server.schemas.jobs import ENDED, Job

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Background jobs: submit, list, follow, pause and cancel."
)
console = TerminalConsole()
Data = Annotated[Path | None, typer.Option("--data-dir", envvar="TILLER_DATA_DIR", help="The server's data directory.")]
Id = Annotated[str, typer.Argument(help="A job's id, job_….")]


@app.command("ls")
def list_(data_dir: Data = None, as_json: AsJson = False) -> None:
    """List all jobs, newest first."""
    jobs = or_exit(_jobs(data_dir).all)
    table = Table("job", "type", "state", "done", "begun", "says")
    for job in jobs:
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.created))
        table.add_row(job.id, job.type, job.state, f"{job.progress:.0%}", begun, _outcome(job))
    print_list(console, table, [job.model_dump(mode="json") for job in jobs], as_json=as_json)


@app.command()
def show(job_id: Id, data_dir: Data = None) -> None:
    """Print a job as JSON."""
    console.print_json(or_exit(lambda: _jobs(data_dir).get(job_id)).model_dump_json())


@app.command()
def watch(job_id: Id, data_dir: Data = None) -> None:
    """Follow a job until it ends; the exit status says whether it succeeded."""
    jobs, after = _jobs(data_dir), 0
    while True:
        job = or_exit(lambda: jobs.get(job_id))
        for event in jobs.events(job_id, after):
            after = event["id"]
            data = {k: round(v, 4) if isinstance(v, float) else v for k, v in event["data"].items() if k != "at"}
            line = data.get("line") or " ".join(f"{k}={v}" for k, v in data.items())
            console.print(f"{event['event']:6} {line}", highlight=False, soft_wrap=True)
        if job.state in ENDED:
            raise typer.Exit(0 if job.state == "succeeded" else 1)
        time.sleep(0.3)


@app.command()
def cancel(job_id: Id, data_dir: Data = None) -> None:
    """Cancel a job."""
    console.print(f"{job_id}: {or_exit(lambda: _jobs(data_dir).cancel(job_id)).state}, and will end")


@app.command()
def pause(job_id: Id, data_dir: Data = None) -> None:
    """Pause a running job; other jobs run in the meantime."""
    or_exit(lambda: _jobs(data_dir).pause(job_id))
    console.print(f"{job_id}: paused; `tiller jobs resume {job_id}` resumes it", soft_wrap=True)


@app.command()
def resume(job_id: Id, data_dir: Data = None) -> None:
    """Resume a paused job; if another one is running, after that."""
    console.print(f"{job_id}: {or_exit(lambda: _jobs(data_dir).resume(job_id)).state}")


@app.command()
def submit(
    type: Annotated[str, typer.Argument(help="sae_update or sae_train.")],
    config: Annotated[list[str] | None, typer.Argument(help='Such as steps=800 or text=["new.jsonl"].')] = None,
    data_dir: Data = None,
) -> None:
    """Queue a job; a trainer has to run: `tiller serve` brings one, or `tiller trainer`.

    Example: tiller jobs submit sae_update 'text=["new.jsonl"]' steps=800
    """
    pairs = [item.partition("=") for item in config or []]
    job = or_exit(lambda: _jobs(data_dir).submit(type, {name: _value(text) for name, _, text in pairs}))
    console.print(f"{job.id} is queued; `tiller jobs watch {job.id}` follows it", soft_wrap=True)


def _jobs(data_dir: Path | None) -> JobQueue:
    return or_exit(lambda: JobQueue(settings_from_options(data_dir=data_dir)))


def _outcome(job: Job) -> str:
    if job.error:
        return job.error
    if "published" in job.result:
        return f"published {job.result['revision']}" if job.result["published"] else "kept aside: a gate failed"
    return "" if job.eta_s is None else f"{job.eta_s:.0f} s to go"


def _value(text: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(text)
    except ValueError:
        return text
