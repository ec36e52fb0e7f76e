"""`tiller trainer`: run queued jobs and drift checks in the background."""

import os
import signal
import sys
import threading
from typing import NoReturn

from server.cli.errors import or_exit
from server.cli.options import settings_from_options, with_settings_options
from server.files import keep_private
from server.settings import inherited_settings
from server.telemetry import logging


@with_settings_options("vllm")
def trainer(**given: object) -> None:
    """Run background jobs and drift checks, without serving.

    Example: tiller trainer --data-dir ./data --corpus chats.jsonl
    """
    use_passive_openmp_waits()
    stop, begun, ours = threading.Event(), threading.Event(), inherited_settings()
    if ours:  # the parent process ends this one by closing its input
        threading.Thread(target=_stop_at_eof, args=(stop, begun), daemon=True).start()
    from server.runtime import trainer as training

    found = ours or settings_from_options(**given)
    keep_private(found.data_dir)
    logging.configure_command_logging(found.log, found.log_level)
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, lambda *_: stop.set())
    begun.set()
    or_exit(lambda: training.run(found, stop))
    _exit_now()


def _stop_at_eof(stop: threading.Event, begun: threading.Event) -> None:
    while os.read(0, 4096):  # the parent writes nothing: any read is the end
        pass
    if not begun.is_set():
        _exit_now()
    from server.jobs.priority import restore_priority

    restore_priority()
    stop.set()


def _exit_now() -> NoReturn:
    """Exit without unloading torch, which takes seconds at idle priority, longer than a stop allows."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def use_passive_openmp_waits() -> None:
    """Make OpenMP threads sleep while they wait; call before torch is loaded.

    By default they spin, and when one of them has no core the others waste theirs: a small training
    step beside a busy process takes 848 ms instead of 60.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
