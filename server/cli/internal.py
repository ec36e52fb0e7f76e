"""Hidden commands that the server starts as child processes: a replica, a job, a drift check."""

import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.errors import expected, fail
from server.cli.trainer import let_threads_sleep
from server.files import keep_private
from server.runtime.serve import announce_when_loaded, load_served_model, set_switch_interval
from server.settings import Settings, handed
from server.telemetry import logging, tracing

if TYPE_CHECKING:
    from server.runtime.http_server import HttpServer
    from server.serving.served_model import Tiller


def replica(
    listening: Annotated[int, typer.Option(help="The socket that all replicas take connections from.")],
    page: Annotated[Path, typer.Option(help="The socket of the page.")],
    late: Annotated[bool, typer.Option("--late", help="Take no connection before the model is there.")] = False,
) -> None:
    """Be one of several servers on one address; ends when stdin does."""
    from server.api.app import create_app
    from server.runtime.http_server import HttpServer
    from server.runtime.page_proxy import Forward

    found, early = _handed(), []
    keep_private(found.data_dir)
    logging.begin_command(found.log, found.log_level)
    set_switch_interval()

    async def opened() -> "Tiller":
        return early.pop() if early else await load_served_model(found)

    async def load() -> None:
        early.append(await load_served_model(found))

    tracing.begin(found.otel_endpoint)
    application = create_app(found, opened)
    application.mount("/", Forward(page))
    server = HttpServer(application, shared=True, drain_seconds=found.drain_seconds)
    threading.Thread(
        target=announce_when_loaded, args=(application, server, _tell_whoever_began_us), daemon=True
    ).start()
    threading.Thread(target=_exit_at_end_of_input, args=(server,), daemon=True).start()
    taken = socket.socket(fileno=listening)
    expected(lambda: server.run_until_signal([taken], first=load if late else None))
    tracing.end()
    if failure := application.state.failure:
        fail(failure)


def job(job_id: str) -> None:
    """Be the process of one job."""
    from server.jobs.queue import Jobs
    from server.jobs.worker import do

    found = _handed()
    let_threads_sleep()
    keep_private(found.data_dir)
    logging.begin_command(found.log, found.log_level)
    do(Jobs(found, patient=True), job_id)


def look() -> None:
    """Be one look of the trainer at the drift."""
    from server.jobs.priority import die_with_parent
    from server.runtime import trainer as training

    found = _handed()
    die_with_parent()
    let_threads_sleep()
    keep_private(found.data_dir)
    logging.begin_command(found.log, found.log_level)
    training.look(found)


def _handed() -> Settings:
    if (settings := handed()) is None:
        fail("people do not run this command: `tiller serve` and `tiller trainer` do")
    return settings


def _tell_whoever_began_us() -> None:
    from server.runtime.replicas import READY

    os.write(1, READY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody listens any more


def _exit_at_end_of_input(server: "HttpServer") -> None:
    while os.read(0, 4096):
        pass
    server.should_exit = True
