"""Trainer process: started beside the server, restarted on failure, stopped with the server."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from server.runtime.child_process import RestartPause, run_child
from server.settings import Settings

log = structlog.get_logger(__name__)
LONGEST = 300.0
"""Maximum seconds between restarts of a failing trainer."""

PATIENCE = 15.0
"""Seconds that a trainer has to end before it is killed."""


@contextmanager
def run_trainer_process(settings: Settings) -> Iterator[Callable[[], None]]:
    """Keep a trainer running while the context is open; yields a function that stops it before the context ends."""
    over = threading.Event()
    watching = threading.Thread(target=_keep, args=(settings, over), daemon=True)
    watching.start()
    try:
        yield over.set
    finally:
        over.set()
        watching.join(PATIENCE + 5)


def _keep(settings: Settings, over: threading.Event) -> None:
    pause = RestartPause(LONGEST)
    while not over.is_set():
        begun = time.monotonic()
        code = run_child("trainer", settings, over, PATIENCE)
        if not over.is_set():
            seconds = pause.after(time.monotonic() - begun)
            log.error("the trainer exited", code=code, again_in=seconds)
            over.wait(seconds)
