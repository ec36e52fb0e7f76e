"""Spans: disjoint ranges of a text's characters, which tell in logarithmic time whether something lies in one of them."""

from bisect import bisect_left
from collections.abc import Iterable


class Spans:
    """Ranges of characters, given in any order; those that overlap or touch are one."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        self._starts, self._ends = list[int](), list[int]()
        for start, end in sorted(span for span in spans if span[0] < span[1]):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def overlap(self, start: int, end: int) -> bool:
        """Return whether a character of `start` to `end` is in one of them."""
        last = bisect_left(self._starts, end) - 1  # of those that begin before the end
        return last >= 0 and start < min(end, self._ends[last])

    def __contains__(self, at: int) -> bool:
        """Return whether a character is in one of them."""
        return self.overlap(at, at + 1)
