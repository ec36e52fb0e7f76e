"""Hidden commands that the server starts as child processes: a replica, a job, a drift check."""

import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.errors import exit_with_error, or_exit
from server.cli.trainer import use_passive_openmp_waits
from server.files import keep_private
from server.runtime.serve import announce_when_loaded, load_and_freeze, set_switch_interval
from server.settings import Settings, inherited_settings
from server.telemetry import logging, tracing

if TYPE_CHECKING:
    from server.runtime.http_server import HttpServer
    from server.serving.served_model import ServedModel


def replica(
    listening: Annotated[int, typer.Option(help="The socket that all replicas take connections from.")],
    page: Annotated[Path, typer.Option(help="The socket of the page.")],
    late: Annotated[bool, typer.Option("--late", help="Take no connection before the model is there.")] = False,
) -> None:
    """Be one of several servers on one address; ends when stdin does."""
    from server.api.app import create_app
    from server.runtime.http_server import HttpServer
    from server.runtime.page_proxy import PageProxy

    found, early = _require_inherited_settings(), []
    keep_private(found.data_dir)
    logging.configure_command_logging(found.log, found.log_level)
    set_switch_interval()

    async def opened() -> "ServedModel":
        return early.pop() if early else await load_and_freeze(found)

    async def load() -> None:
        early.append(await load_and_freeze(found))

    tracing.start(found.otel_endpoint)
    application = create_app(found, opened)
    application.mount("/", PageProxy(page))
    server = HttpServer(application, shared=True, drain_seconds=found.drain_seconds)
    threading.Thread(target=announce_when_loaded, args=(application, server, _report_ready), daemon=True).start()
    threading.Thread(target=_stop_at_eof, args=(server,), daemon=True).start()
    taken = socket.socket(fileno=listening)
    or_exit(lambda: server.run_until_signal([taken], first=load if late else None))
    tracing.stop()
    if failure := application.state.failure:
        exit_with_error(failure)


def job(job_id: str) -> None:
    """Be the process of one job."""
    from server.jobs.queue import JobQueue
    from server.jobs.worker import run_job

    found = _require_inherited_settings()
    use_passive_openmp_waits()
    keep_private(found.data_dir)
    logging.configure_command_logging(found.log, found.log_level)
    run_job(JobQueue(found, patient=True), job_id)


def check_drift() -> None:
    """Be one look of the trainer at the drift."""
    from server.jobs.priority import die_with_parent
    from server.runtime import trainer as training

    found = _require_inherited_settings()
    die_with_parent()
    use_passive_openmp_waits()
    keep_private(found.data_dir)
    logging.configure_command_logging(found.log, found.log_level)
    training.check_drift(found)


def _require_inherited_settings() -> Settings:
    if (settings := inherited_settings()) is None:
        exit_with_error("people do not run this command: `tiller serve` and `tiller trainer` do")
    return settings


def _report_ready() -> None:
    from server.runtime.replicas import READY

    os.write(1, READY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody listens any more


def _stop_at_eof(server: "HttpServer") -> None:
    while os.read(0, 4096):
        pass
    server.should_exit = True
