"""A real engine whose forward pass is held while a test inspects the queue: no sequence gets a token until it is
released.
"""

import threading
from contextlib import contextmanager
from itertools import count

from tests.support.waiting import LIMIT


@contextmanager
def halted(engine, *, after=0, when=lambda: True):
    """Hold the model before its next pass, or `after` that many, once `when()` is true; release it when the context
    ends.

    A held pass computes the sequences that it started with: a test that needs a full batch states that with `when`.
    """
    go, passes = threading.Event(), count()

    def hold(*_):
        if next(passes) >= after and when() and not go.wait(LIMIT):
            raise TimeoutError(f"a test held the engine for {LIMIT:g} s; occupancy {engine.occupancy}")

    batch, hook = engine._batch, engine.model.register_forward_pre_hook(hold)
    own = batch._llama  # which computes in place of the model's modules
    if own:
        batch._llama = _Held(own, hold)
    try:
        yield
    finally:
        hook.remove()
        batch._llama = own
        go.set()


class _Held:
    """A pass that waits before it computes."""

    def __init__(self, own, hold):
        self._own, self._hold, self.packs = own, hold, own.packs

    def __call__(self, *args, **more):
        self._hold()
        return self._own(*args, **more)
