"""Waiting in tests: for a condition, never for a fixed time, and always with a limit that reports the last value."""

import asyncio
import inspect
import time

LIMIT = 300.0
"""Seconds; a condition that is already true costs nothing, and a loaded machine may be slow."""


def until(condition, seconds=LIMIT, *, every=0.02):
    """Poll until `condition()` is true, and return it. Fails with the condition's source and its last value."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, _not_in_time(condition, found, seconds)
        time.sleep(every)
    return found


async def eventually(condition, *expected, seconds=LIMIT, every=0.01):
    """The same on a running event loop; with `expected`, until the value equals it. `condition` may be a coroutine
    function.
    """
    end = time.monotonic() + seconds
    while True:
        found = condition()
        found = await found if inspect.isawaitable(found) else found
        if found == expected[0] if expected else found:
            return found
        assert time.monotonic() < end, _not_in_time(condition, found, seconds)
        await asyncio.sleep(every)


def _not_in_time(condition, found, seconds):
    try:
        source = inspect.getsource(condition).strip()
    except OSError:
        source = repr(condition)
    return f"not within {seconds:g} s: {source}; seen last: {found!r}"
