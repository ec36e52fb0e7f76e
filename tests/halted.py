"""A real engine that stands still while a test looks at who waits: what it has taken in gets no token until then."""

import threading
from contextlib import contextmanager


@contextmanager
def halted(engine):
    """Hold the model back before its next pass; at the end all goes on."""
    go = threading.Event()
    hook = engine.model.register_forward_pre_hook(lambda *_: go.wait(60) and None)
    try:
        yield
    finally:
        hook.remove()
        go.set()
