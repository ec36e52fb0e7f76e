"""A real redis-server on a free port, which a test can stop and restart."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import until


class RedisServer:
    """Keeps its data across a restart by an append-only file; with `sync`, confirmed writes survive a crash.

    With `dump` it serves the dump.rdb of its folder instead, and persists nothing.
    """

    def __init__(self, folder: Path, *, sync: bool = False, dump: bool = False) -> None:
        if not shutil.which("redis-server"):
            missing = "redis-server is missing: apt-get install redis-server"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
        self._folder, self._sync, self._dump = folder, "always" if sync else "everysec", dump
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return when it answers."""
        about = {"port": self.port, "bind": "127.0.0.1", "save": "", "dir": self._folder}
        about |= {"appendonly": "no" if self._dump else "yes", "appendfsync": self._sync}
        words = [word for name, value in about.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL)

        def up():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=20) as asked:
                asked.sendall(b"PING\r\n")
                return asked.recv(5) == b"+PONG"

        until(up)

    def stop(self) -> None:
        """Kill it, as in a crash."""
        self._process.kill()
        self._process.wait(120)

    @contextlib.contextmanager
    def silent(self):
        """Keep its connections open without answering."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running(folder: Path, *, sync: bool = False, dump: bool = False):
    """Yield a server for one test."""
    server = RedisServer(folder, sync=sync, dump=dump)
    server.start()
    try:
        yield server
    finally:
        server.stop()
