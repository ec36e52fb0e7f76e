"""The background trainer: does jobs, and has the drift looked at in between. Knows processes; of training and looking only that they are done.

Both happen in processes of their own, so that what waits here for days has neither torch nor a model in its memory.
"""

import subprocess
import sys
import threading

import structlog

from server.jobs.priority import give_way
from server.jobs.queue import Jobs
from server.jobs.runner import Runner
from server.runtime.trainer_process import end
from server.sae.drift_watch import Lookout
from server.settings import Settings, handing

log = structlog.get_logger(__name__)
GRACE = 5.0
"""Seconds that a look has to end by itself when the trainer does."""


def run(settings: Settings, stop: threading.Event) -> None:
    """Be the trainer until `stop`."""
    give_way()
    jobs = Jobs(settings, patient=True)
    looking = threading.Thread(target=_look_now_and_then, args=(settings, stop), daemon=True)
    looking.start()
    Runner(jobs).run(stop)
    looking.join(GRACE + 1)


def look(settings: Settings) -> None:
    """Be one look: say what was found, and have done what that calls for. Raises SystemExit if it fails; the next one may do."""
    try:
        found = Lookout(settings, Jobs(settings, patient=True).submit).look()
    except Exception as error:
        log.exception("could not look at the drift")
        raise SystemExit(1) from error
    if found:
        log.warning("drift", alarms=found)


def _look_now_and_then(settings: Settings, stop: threading.Event) -> None:
    words = [sys.executable, "-m", "server", "look"]
    while not stop.wait(settings.look_seconds):
        child = subprocess.Popen(words, stdin=subprocess.PIPE, env=handing(settings))
        while child.poll() is None and not stop.wait(0.2):
            pass
        end(child, GRACE)
        if child.returncode < 0 and not stop.is_set():
            log.error("a look at the drift was killed", signal=-child.returncode)
