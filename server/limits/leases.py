"""Concurrency leases: slots and tokens held by a key's running replies, and its token debt."""

import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Lease:
    """What one reply holds."""

    key: str
    places: int
    tokens: int
    name: str

    @property
    def member(self) -> str:
        """Its form in Redis."""
        return f"{self.name}:{self.places}:{self.tokens}"


@dataclass(frozen=True)
class Answer:
    """Whether the lease was granted; if not, what was exhausted, and how much of it is in use."""

    result: Literal["held", "places", "tokens"]
    taken: int


class LeaseStore(Protocol):
    """Leases and debts of all keys."""

    async def acquire(self, hold: Lease, *, most: int | None, left: int | None) -> Answer:
        """Grant a lease if at most `most` slots are then in use and a token is `left` beyond those held."""
        ...

    async def release(self, hold: Lease) -> None:
        """End a lease."""
        ...

    async def add_debt(self, key: str, tokens: int) -> None:
        """Add tokens to a key's debt."""
        ...

    async def pay_debt(self, key: str, most: int) -> int:
        """Pay up to `most` tokens of the debt; returns how many."""
        ...


class LocalLeases:
    """Leases of this process."""

    def __init__(self) -> None:
        self._places: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._owed: Counter[str] = Counter()

    async def acquire(self, hold: Lease, *, most: int | None, left: int | None) -> Answer:
        """See `LeaseStore`; atomic."""
        held, taken = self._places[hold.key], self._tokens[hold.key] + self._owed[hold.key]
        if most is not None and held + hold.places > most:
            return Answer("places", held)
        if left is not None and left - taken <= 0:
            return Answer("tokens", taken)
        self._places[hold.key] += hold.places
        self._tokens[hold.key] += hold.tokens
        return Answer("held", taken)

    async def release(self, hold: Lease) -> None:
        """See `LeaseStore`."""
        self._places[hold.key] -= hold.places
        self._tokens[hold.key] -= hold.tokens

    async def add_debt(self, key: str, tokens: int) -> None:
        """See `LeaseStore`."""
        self._owed[key] += tokens

    async def pay_debt(self, key: str, most: int) -> int:
        """See `LeaseStore`."""
        paid = min(self._owed[key], most)
        self._owed[key] -= paid
        return paid


def new_lease(key: str, places: int, tokens: int) -> Lease:
    """A lease with a unique name."""
    return Lease(key, places, tokens, uuid.uuid4().hex)
