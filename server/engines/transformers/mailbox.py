"""Mailbox: passes items from the engine's thread to listeners in event loops.

Each step emits items for all sequences. Delivered one by one, each would wake the loop, which then
competes with the engine for the interpreter's lock; so the items of a step are delivered together.
"""

import asyncio
from collections import defaultdict
from typing import Generic, TypeVar

T = TypeVar("T")


class Listener(Generic[T]):
    """Queue of one listener: made in its event loop, written to from the engine's thread."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[T] = asyncio.Queue()

    async def get(self) -> T:
        """Wait for the next item."""
        return await self._queue.get()

    def put(self, item: T) -> None:
        """Runs in the event loop."""
        self._queue.put_nowait(item)


class Mailbox(Generic[T]):
    """Items of one step that are not sent yet. Belongs to one thread."""

    def __init__(self) -> None:
        self._held: defaultdict[asyncio.AbstractEventLoop, list[tuple[Listener[T], T]]] = defaultdict(list)

    def add(self, to: Listener[T], item: T) -> None:
        """Keep `item` until `send`."""
        self._held[to.loop].append((to, item))

    def send(self) -> None:
        """Send the kept items, with one call per loop; items for a closed loop are dropped."""
        for loop, items in self._held.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_deliver, items)
        self._held.clear()


def _deliver(items: list[tuple[Listener[T], T]]) -> None:
    for to, item in items:
        to.put(item)
