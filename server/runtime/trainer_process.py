"""The trainer's process beside the server: begun, begun again when it dies, ended with the server. Knows no training."""

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
"""Seconds between two attempts to keep a trainer that dies again and again."""

PATIENCE = 15.0
"""Seconds that a trainer has to end by itself."""


@contextmanager
def run_trainer_process(settings: Settings) -> Iterator[Callable[[], None]]:
    """Keep a trainer running while the context is open. It reads our end of a pipe, so it dies with us, however we die.

    Gives what tells it to end before the context does.
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
    """Close the input of a process that ends when that does, as it would if we were killed; after a while kill it."""
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
