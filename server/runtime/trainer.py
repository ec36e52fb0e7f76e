"""The background trainer: does jobs, and has the drift looked at in between. Knows processes; of training and looking only that they are done.

Both happen in processes of their own, so that what waits here for days has neither torch nor a model in its memory.
"""

import subprocess
import sys
import threading

import structlog

from server.jobs.priority import lower_priority
from server.jobs.queue import JobQueue
from server.jobs.runner import Runner
from server.runtime.trainer_process import stop_child
from server.sae.drift_watch import DriftWatch
from server.settings import Settings, child_environment

log = structlog.get_logger(__name__)
GRACE = 5.0
"""Seconds that a look has to end by itself when the trainer does."""


def run(settings: Settings, stop: threading.Event) -> None:
    """Be the trainer until `stop`."""
    lower_priority()
    jobs = JobQueue(settings, patient=True)
    looking = threading.Thread(target=_check_drift_periodically, args=(settings, stop), daemon=True)
    looking.start()
    Runner(jobs).run(stop)
    looking.join(GRACE + 1)


def check_drift(settings: Settings) -> None:
    """Be one look: say what was found, and have done what that calls for. Raises SystemExit if it fails; the next one may do."""
    try:
        found = DriftWatch(settings, JobQueue(settings, patient=True).submit).check()
    except Exception as error:
        log.exception("could not look at the drift")
        raise SystemExit(1) from error
    if found:
        log.warning("drift", alarms=found)


def _check_drift_periodically(settings: Settings, stop: threading.Event) -> None:
    words = [sys.executable, "-m", "server", "look"]
    while not stop.wait(settings.look_seconds):
        child = subprocess.Popen(words, stdin=subprocess.PIPE, env=child_environment(settings))
        while child.poll() is None and not stop.wait(0.2):
            pass
        stop_child(child, GRACE)
        if child.returncode < 0 and not stop.is_set():
            log.error("a look at the drift was killed", signal=-child.returncode)
