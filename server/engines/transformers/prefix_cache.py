"""What was computed for earlier turns, found again by the tokens that a new turn begins with. Knows no model.

An entry is a pure function of its salt (who asked, which revision, which spec) and of its tokens with
their steered marks; only a request of the same salt finds it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from server.engines.transformers.kv_cache import Kept

LEAST = 8
"""A shorter beginning is computed anew."""


@dataclass(frozen=True, eq=False)
class CachedPrefix:
    """The keys and values of some first tokens."""

    salt: str
    marks: np.ndarray
    kept: Kept


class PrefixCache:
    """The last computed beginnings, up to so many bytes."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._entries: OrderedDict[int, CachedPrefix] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, salt: str, ids: Sequence[int], steered: Sequence[bool]) -> tuple[int, Kept | None]:
        """Return how many first tokens are known, and the keys and values that begin with them."""
        wanted, best, at = _marks(ids, steered), 0, -1
        for number, entry in self._entries.items():
            if entry.salt == salt and (n := _shared(wanted, entry.marks)) > best:
                best, at = n, number
        if best < LEAST:
            return 0, None
        self._entries.move_to_end(at)
        return best, self._entries[at].kept

    def wants(self, size: int) -> bool:
        """Whether something of so many bytes would be kept."""
        return size <= self.most_bytes

    def add(self, salt: str, ids: Sequence[int], steered: Sequence[bool], kept: Kept) -> None:
        """Remember a beginning; what it contains is forgotten, and so is the oldest if there is no room."""
        marks = _marks(ids, steered)
        size = _size(kept)
        for number, entry in list(self._entries.items()):
            if entry.salt == salt and _shared(marks, entry.marks) == len(entry.marks):
                self._evict(number)
        while self._entries and self.bytes + size > self.most_bytes:
            self._evict(next(iter(self._entries)))
        if self.wants(size):
            self._entries[self._next] = CachedPrefix(salt, marks, kept)
            self._next += 1
            self.bytes += size

    def _evict(self, number: int) -> None:
        self.bytes -= _size(self._entries.pop(number).kept)


def _marks(ids: Sequence[int], steered: Sequence[bool]) -> np.ndarray:
    """One number per token that tells its id and whether it was steered."""
    return np.asarray(ids, dtype=np.int64) * 2 + np.asarray(steered, dtype=np.int64)


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def _size(kept: Kept) -> int:
    return kept.element_size() * kept.nelement()
