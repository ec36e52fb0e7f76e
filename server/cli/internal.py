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
    listening: Annotated[
        int, typer.Option(help="File descriptor of the socket that all replicas accept connections on.")
    ],
    page: Annotated[Path, typer.Option(help="File descriptor of the page's socket.")],
    late: Annotated[bool, typer.Option("--late", help="Accept no connections before the model is loaded.")] = False,
) -> None:
    """Serve as one of several replicas; ends when stdin closes."""
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
    """Run one job."""
    from server.jobs.queue import JobQueue
    from server.jobs.worker import run_job

    found = _require_inherited_settings()
    use_passive_openmp_waits()
    keep_private(found.data_dir)
    logging.configure_command_logging(found.log, found.log_level)
    run_job(JobQueue(found, patient=True), job_id)


def check_drift() -> None:
    """Run one drift check."""
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
        exit_with_error("this command is internal: `tiller serve` and `tiller trainer` run it")
    return settings


def _report_ready() -> None:
    from server.runtime.replicas import READY

    os.write(1, READY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the parent has gone


def _stop_at_eof(server: "HttpServer") -> None:
    while os.read(0, 4096):
        pass
    server.should_exit = True
