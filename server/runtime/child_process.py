"""Child processes of the command: run until they end or are stopped, and the pause before a failed one starts again."""

import subprocess
import sys
import threading

from server.settings import Settings, child_environment

LONG_RUN = 60.0
"""Seconds that a process runs before its end counts as a first failure again."""


class RestartPause:
    """Pause before a restart: doubled after each short run, up to `longest` seconds, and one second after a long run."""

    def __init__(self, longest: float) -> None:
        self._seconds, self._longest = 1.0, longest

    def after(self, run_seconds: float) -> float:
        """Return the seconds to wait after a run of this length."""
        self._seconds = 1.0 if run_seconds > LONG_RUN else min(self._longest, self._seconds * 2)
        return self._seconds


def run_child(command: str, settings: Settings, stop: threading.Event, patience: float) -> int:
    """Run `tiller COMMAND` until it ends or `stop` is set, and return its exit code.

    It reads the end of a pipe, so it ends with this process in any case.
    """
    words = [sys.executable, "-m", "server", command]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, env=child_environment(settings))
    while child.poll() is None and not stop.wait(0.2):
        pass
    return _stop_child(child, patience)


def _stop_child(child: "subprocess.Popen[bytes]", patience: float) -> int:
    """Close the input of a process, which ends it, as the parent's death would; kill it after a while."""
    assert child.stdin
    child.stdin.close()
    try:
        return child.wait(patience)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()
