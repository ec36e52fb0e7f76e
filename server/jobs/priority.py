"""Process priority: run on idle CPU time only, and end with the parent process."""

import os
import threading


def lower_priority() -> None:
    """Run this process and its threads at idle priority: on Linux, only while a core has nothing else to do."""
    os.nice(10)
    if hasattr(os, "SCHED_IDLE"):
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:
            pass  # a container may forbid it; the niceness stays


def restore_priority() -> None:
    """Restore the priority of the main thread and the calling one, so that a process can handle its
    termination on a busy machine."""
    for thread in (os.getpid(), 0) if hasattr(os, "SCHED_IDLE") else ():
        try:
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        except OSError:
            pass  # not permitted for every user


def die_with_parent() -> None:
    """End when standard input closes: the parent process holds its other end, and writes nothing."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()
