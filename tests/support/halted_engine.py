"""A real engine that stands still while a test looks at who waits: what it has taken in gets no token until then."""

import threading
from contextlib import contextmanager
from itertools import count


@contextmanager
def halted(engine, *, after: int = 0):
    """Hold the model back before its next pass, or `after` some; at the end all goes on."""
    go, passes = threading.Event(), count()

    def hold(*_):
        if next(passes) >= after:
            go.wait(300)

    hook = engine.model.register_forward_pre_hook(hold)
    try:
        yield
    finally:
        hook.remove()
        go.set()
