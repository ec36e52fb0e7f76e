"""Replicas: several server processes on one socket, started in turn, restarted on failure, stopped together.

The first loads alone, so that an error is reported once; the others, and each replacement, accept
connections after they have loaded. If the parent dies in any way, replicas see the end of its pipe
and stop.
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

from server.runtime.child_process import RestartPause
from server.settings import Settings, child_environment

log = structlog.get_logger(__name__)
READY = b"ready\n"
"""Written by a replica when it has loaded."""
LONGEST = 60.0
"""Maximum seconds between restarts of a failing replica."""
PATIENCE = 10.0
"""Seconds that replicas have to end, in addition to `drain_seconds`."""


class Replicas:
    """The replicas of one server."""

    def __init__(self, settings: Settings, listening: socket.socket, page: Path) -> None:
        self._over = threading.Event()
        self._children: list[subprocess.Popen[bytes]] = []
        self._started: dict[int, float] = {}
        self._own = settings.model_copy(update={"trainer": False, "workers": 1})
        self._n, self._listening, self._drain_seconds = settings.workers, listening, settings.drain_seconds
        self._signalled: set[int] = set()
        self._words = [sys.executable, "-m", "server", "replica"]
        self._words += ["--listening", str(listening.fileno()), "--page", str(page)]

    def keep(self, ready: Callable[[], None]) -> bool:
        """Keep them running until `end`; `ready` is called when each has loaded or failed. Returns
        whether the first one has loaded at all."""
        if not self._begin(0, late=False):
            return False
        for place in range(1, self._n):
            self._begin(place, late=True)
        if not self._over.is_set():
            ready()
        pause = RestartPause(LONGEST)
        while not self._over.wait(0.2):
            for place, child in enumerate(self._children):
                if child.poll() is not None and not self._over.is_set():
                    seconds = pause.after(time.monotonic() - self._started[child.pid])
                    log.error("a replica exited", code=child.returncode, again_in=seconds)
                    self._over.wait(seconds)
                    if self._begin(place, late=True):
                        log.warning("a replica was restarted", pid=self._children[place].pid)
        return True

    def stop_all(self) -> None:
        """Signal all replicas to drain; each only once, because a second signal ends it at once."""
        self._over.set()
        for child in self._children:
            if child.pid not in self._signalled and child.poll() is None:
                self._signalled.add(child.pid)
                child.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Stop all replicas and wait for them."""
        self.stop_all()
        end = time.monotonic() + PATIENCE + self._drain_seconds
        for child in self._children:
            try:
                child.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _begin(self, place: int, *, late: bool) -> bool:
        """Start one and wait until it has loaded; returns whether it has."""
        if self._over.is_set():
            return False
        words, pipe = [*self._words, *(["--late"] if late else [])], subprocess.PIPE
        environment, shared = child_environment(self._own), [self._listening.fileno()]
        child = subprocess.Popen(words, stdin=pipe, stdout=pipe, pass_fds=shared, env=environment)
        self._started[child.pid] = time.monotonic()
        self._children[place : place + 1] = [child]
        assert child.stdout
        with child.stdout:
            return child.stdout.readline() == READY


@contextmanager
def running_replicas(replicas: Replicas, ready: Callable[[], None], over: Callable[[bool], None]) -> Iterator[None]:
    """Run replicas in the background; `over` is called at the end with whether they were ever ready."""
    thread = threading.Thread(target=lambda: over(replicas.keep(ready)), daemon=True)
    thread.start()
    try:
        yield
    finally:
        replicas.end()
        thread.join(5)
        replicas.end()  # one that was just started
