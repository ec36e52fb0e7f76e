"""Several servers on one address: begun one after the other, begun again when they die, ended together. Knows processes only.

All take connections from one socket. The first loads alone, so that what is wrong is said once; the others, and each
that takes the place of one that died, take connections when they have loaded. Whoever begins them may die as it likes:
they read its end of a pipe and end, too.
"""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from server.settings import Settings, child_environment

log = structlog.get_logger(__name__)
READY = b"ready\n"
"""What a replica says when it has loaded."""
LONGEST = 60.0
"""Seconds between two attempts to keep one that dies again and again."""
PATIENCE = 10.0
"""Seconds that replicas have to end, beside those that their replies have."""


class Replicas:
    """The replicas of one server."""

    def __init__(self, settings: Settings, listening: socket.socket, page: Path) -> None:
        self._over = threading.Event()
        self._children: list[subprocess.Popen[bytes]] = []
        self._own = settings.model_copy(update={"trainer": False, "workers": 1})
        self._n, self._listening, self._drain_seconds = settings.workers, listening, settings.drain_seconds
        self._told: set[int] = set()
        self._words = [sys.executable, "-m", "server", "replica"]
        self._words += ["--listening", str(listening.fileno()), "--page", str(page)]

    def keep(self, ready: Callable[[], None]) -> bool:
        """Keep them running until `end`; `ready` is called when each has loaded or failed. Whether the first one has loaded at all."""
        if not self._begin(0, late=False):
            return False
        for place in range(1, self._n):
            self._begin(place, late=True)
        if not self._over.is_set():
            ready()
        died, pause = 0.0, 1.0
        while not self._over.wait(0.2):
            for place, child in enumerate(self._children):
                if child.poll() is not None and not self._over.is_set():
                    pause = min(LONGEST, pause * 2) if time.monotonic() - died < 60 else 1.0
                    died = time.monotonic()
                    log.error("a replica died", code=child.returncode, again_in=pause)
                    self._over.wait(pause)
                    if self._begin(place, late=True):
                        log.warning("a replica serves in its place", pid=self._children[place].pid)
        return True

    def stop_all(self) -> None:
        """Let all end their replies; who was told is not told again, for that would mean to wait no longer."""
        self._over.set()
        for child in self._children:
            if child.pid not in self._told and child.poll() is None:
                self._told.add(child.pid)
                child.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """The same, and wait for them."""
        self.stop_all()
        end = time.monotonic() + PATIENCE + self._drain_seconds
        for child in self._children:
            try:
                child.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _begin(self, place: int, *, late: bool) -> bool:
        """Begin one and wait until it has loaded; whether it has."""
        if self._over.is_set():
            return False
        words, pipe = [*self._words, *(["--late"] if late else [])], subprocess.PIPE
        given, shared = child_environment(self._own), [self._listening.fileno()]
        child = subprocess.Popen(words, stdin=pipe, stdout=pipe, pass_fds=shared, env=given)
        self._children[place : place + 1] = [child]
        assert child.stdout
        with child.stdout:
            return child.stdout.readline() == READY


@contextmanager
def running_replicas(replicas: Replicas, ready: Callable[[], None], over: Callable[[bool], None]) -> Iterator[None]:
    """Keep replicas in the background; `over` is told, when that ends, whether they have ever been ready."""
    thread = threading.Thread(target=lambda: over(replicas.keep(ready)), daemon=True)
    thread.start()
    try:
        yield
    finally:
        replicas.end()
        thread.join(5)
        replicas.end()  # one that was just begun
