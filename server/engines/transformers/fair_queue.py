"""Fair queue: round-robin over per-tenant queues.

One waiting request of a tenant does not wait behind fifty of another.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """One queue per name, served in turn."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[T]:
        """All items in the order in which they will be taken, as of now."""
        lines = [list(line) for line in list(self._lines.values())]
        for turn in range(max(map(len, lines), default=0)):
            yield from (line[turn] for line in lines if turn < len(line))

    def add(self, name: str, item: T) -> bool:
        """Append `item` to a name's queue; False if too many wait already."""
        if len(self) >= self.most:
            return False
        self._lines.setdefault(name, deque()).append(item)
        return True

    def take(self) -> T | None:
        """Take the first item of the next queue."""
        if not self._lines:
            return None
        name, line = self._lines.popitem(last=False)
        item = line.popleft()
        if line:
            self._lines[name] = line
        return item

    def drop(self, name: str, item: T) -> None:
        """Remove `item` if it still waits; its place is free at once."""
        line = self._lines.get(name, deque())
        if item in line:
            line.remove(item)
        if not line:
            self._lines.pop(name, None)
