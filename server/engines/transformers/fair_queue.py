"""Who waits for a place, in an order that is fair between people. Knows names and lengths, nothing of what waits.

Everybody has a line of their own, and the lines take turns: somebody with one request does not wait
behind somebody else's fifty.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Lines, one for each name, that take turns."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[T]:
        """All of them in the order in which they will be taken, unless somebody else comes."""
        lines = [list(line) for line in list(self._lines.values())]
        for turn in range(max(map(len, lines), default=0)):
            yield from (line[turn] for line in lines if turn < len(line))

    def add(self, name: str, item: T) -> bool:
        """Put `item` at the end of a line; False if too many wait already."""
        if len(self) >= self.most:
            return False
        self._lines.setdefault(name, deque()).append(item)
        return True

    def take(self) -> T | None:
        """Take the first of the line whose turn it is."""
        if not self._lines:
            return None
        name, line = self._lines.popitem(last=False)
        item = line.popleft()
        if line:
            self._lines[name] = line
        return item

    def drop(self, name: str, item: T) -> None:
        """Let `item` leave, if it still waits: its place is free at once."""
        line = self._lines.get(name, deque())
        if item in line:
            line.remove(item)
        if not line:
            self._lines.pop(name, None)
