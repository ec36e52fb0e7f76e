"""What an engine's thread has to tell those who wait in event loops. Knows loops and queues, nothing of what it carries.

A step of the engine speaks to everybody at once. Told one by one, each word would wake the loop, which
then fights the engine for the interpreter's lock; so a step's words are kept and handed over together.
"""

import asyncio
from collections import defaultdict
from typing import Generic, TypeVar

T = TypeVar("T")


class Listener(Generic[T]):
    """Where one listener waits: made in its event loop, written to from the engine's thread."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[T] = asyncio.Queue()

    async def get(self) -> T:
        """Wait for what comes next."""
        return await self._queue.get()

    def put(self, item: T) -> None:
        """Called in the loop."""
        self._queue.put_nowait(item)


class Mailbox(Generic[T]):
    """What one step has said and not handed over. Belongs to one thread."""

    def __init__(self) -> None:
        self._held: defaultdict[asyncio.AbstractEventLoop, list[tuple[Listener[T], T]]] = defaultdict(list)

    def add(self, to: Listener[T], item: T) -> None:
        """Keep `item` until `send`."""
        self._held[to.loop].append((to, item))

    def send(self) -> None:
        """Hand over what is kept, with one call for each loop; a loop that has closed has nobody to tell."""
        for loop, items in self._held.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_deliver, items)
        self._held.clear()


def _deliver(items: list[tuple[Listener[T], T]]) -> None:
    for to, item in items:
        to.put(item)
