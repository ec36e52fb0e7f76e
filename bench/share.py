"""Share: a proportion with its interval, as benchmarks print it."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """A proportion with its 95 % interval (Wilson)."""

    n: int
    of: int

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper end of the interval."""
        z, n, p = 1.96, max(self.of, 1), self.n / max(self.of, 1)
        middle, reach = p + z * z / (2 * n), z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
        return (middle - reach) / (1 + z * z / n), (middle + reach) / (1 + z * z / n)

    def __str__(self) -> str:
        low, high = self.bounds
        return f"{self.n}/{self.of} = {self.n / max(self.of, 1):.1%} ({max(low, 0):.1%} … {high:.1%})"

    @staticmethod
    def of_all(marks: Iterable[bool]) -> "Share":
        """Count the true values."""
        found = list(marks)
        return Share(sum(found), len(found))
