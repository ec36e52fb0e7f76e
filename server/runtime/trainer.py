"""Background trainer: runs jobs, and drift checks in between.

Both run in processes of their own, so this long-lived one loads neither torch nor a model.
"""

import threading

import structlog

from server.jobs.priority import lower_priority
from server.jobs.queue import JobQueue
from server.jobs.runner import Runner
from server.runtime.child_process import run_child
from server.settings import Settings

log = structlog.get_logger(__name__)
GRACE = 5.0
"""Seconds that a drift check has to end when the trainer stops."""


def run(settings: Settings, stop: threading.Event) -> None:
    """Run the trainer until `stop`."""
    lower_priority()
    jobs = JobQueue(settings, patient=True)
    checks = threading.Thread(target=_check_drift_periodically, args=(settings, stop), daemon=True)
    checks.start()
    Runner(jobs).run(stop)
    checks.join(GRACE + 1)


def check_drift(settings: Settings) -> None:
    """Run one drift check: log the result and act on it. Raises SystemExit if it fails; the next one may succeed."""
    from server.sae.drift_watch import DriftWatch  # loads torch, which the trainer that waits for days must not

    try:
        found = DriftWatch(settings, JobQueue(settings, patient=True).submit).check()
    except Exception as error:
        log.exception("the drift check failed")
        raise SystemExit(1) from error
    if found:
        log.warning("drift", alarms=found)


def _check_drift_periodically(settings: Settings, stop: threading.Event) -> None:
    while not stop.wait(settings.look_seconds):
        code = run_child("look", settings, stop, GRACE)
        if code < 0 and not stop.is_set():
            log.error("a drift check was killed", signal=-code)
