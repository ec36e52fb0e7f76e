"""Prefix cache: keys and values of earlier turns, found by the first tokens of a new one.

An entry is a pure function of its salt (tenant, revision, spec) and of its tokens with their
steered marks; only a request with the same salt finds it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from server.engines.transformers.kv_cache import Kept

LEAST = 8
"""Minimum length of a cached prefix, in tokens."""


@dataclass(frozen=True, eq=False)
class CachedPrefix:
    """Keys and values of the first tokens of a sequence."""

    salt: str
    marks: np.ndarray
    kept: Kept


class PrefixCache:
    """The most recent prefixes, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._entries: OrderedDict[int, CachedPrefix] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, salt: str, ids: Sequence[int], steered: Sequence[bool]) -> tuple[int, Kept | None]:
        """Number of known first tokens, and their keys and values."""
        wanted, best, at = _marks(ids, steered), 0, -1
        for number, entry in self._entries.items():
            if entry.salt == salt and (n := _shared(wanted, entry.marks)) > best:
                best, at = n, number
        if best < LEAST:
            return 0, None
        self._entries.move_to_end(at)
        return best, self._entries[at].kept

    def wants(self, size: int) -> bool:
        """Whether an entry of this size fits."""
        return size <= self.most_bytes

    def add(self, salt: str, ids: Sequence[int], steered: Sequence[bool], kept: Kept) -> None:
        """Add a prefix; its own prefixes are evicted, and so are the oldest entries if there is no room."""
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
    """One number per token for its id and whether it was steered."""
    return np.asarray(ids, dtype=np.int64) * 2 + np.asarray(steered, dtype=np.int64)


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def _size(kept: Kept) -> int:
    return kept.element_size() * kept.nelement()
