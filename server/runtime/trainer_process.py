"""Trainer process: started beside the server, restarted on failure, stopped with the server."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from server.settings import Settings, child_environment

log = structlog.get_logger(__name__)
LONGEST = 300.0
"""Maximum seconds between restarts of a failing trainer."""

PATIENCE = 15.0
"""Seconds that a trainer has to end before it is killed."""


@contextmanager
def run_trainer_process(settings: Settings) -> Iterator[Callable[[], None]]:
    """Keep a trainer running while the context is open. It reads the end of a pipe, so it ends with
    this process in any case.

    Yields a function that stops it before the context ends.
    """
    over = threading.Event()
    watching = threading.Thread(target=_keep, args=(settings, over), daemon=True)
    watching.start()
    try:
        yield over.set
    finally:
        over.set()
        watching.join(PATIENCE + 5)


def stop_child(child: "subprocess.Popen[bytes]", patience: float) -> None:
    """Close the input of a process, which ends it, as the parent's death would; kill it after a while."""
    assert child.stdin
    child.stdin.close()
    try:
        child.wait(patience)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _keep(settings: Settings, over: threading.Event) -> None:
    pause = 1.0
    while not over.is_set():
        words = [sys.executable, "-m", "server", "trainer"]
        child, begun = subprocess.Popen(words, stdin=subprocess.PIPE, env=child_environment(settings)), time.monotonic()
        while child.poll() is None and not over.wait(0.2):
            pass
        if over.is_set():
            stop_child(child, PATIENCE)
            return
        pause = 1.0 if time.monotonic() - begun > 60 else min(LONGEST, pause * 2)
        log.error("the trainer died", code=child.returncode, again_in=pause)
        over.wait(pause)
