"""What running replies of a key hold: places, and the tokens that they may come to; and what a key owes. Knows no limits' windows."""

import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Lease:
    """What one reply asks for, or has."""

    key: str
    places: int
    tokens: int
    name: str

    @property
    def member(self) -> str:
        """As Redis keeps it."""
        return f"{self.name}:{self.places}:{self.tokens}"


@dataclass(frozen=True)
class Answer:
    """Whether something was held; if not, what there was too little of, and how much of it is taken."""

    said: Literal["held", "places", "tokens"]
    taken: int


class LeaseStore(Protocol):
    """What keys hold and owe."""

    async def acquire(self, hold: Lease, *, most: int | None, left: int | None) -> Answer:
        """Hold, if there are no more than `most` places then and a token is `left` beside what is taken already."""
        ...

    async def release(self, hold: Lease) -> None:
        """Hold no longer."""
        ...

    async def add_debt(self, key: str, tokens: int) -> None:
        """So many tokens are to be paid."""
        ...

    async def pay_debt(self, key: str, most: int) -> int:
        """How many of them are paid with `most`."""
        ...


class LocalLeases:
    """Holds of this process."""

    def __init__(self) -> None:
        self._places: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._owed: Counter[str] = Counter()

    async def acquire(self, hold: Lease, *, most: int | None, left: int | None) -> Answer:
        """As `Holds` says; nobody comes in between."""
        held, taken = self._places[hold.key], self._tokens[hold.key] + self._owed[hold.key]
        if most is not None and held + hold.places > most:
            return Answer("places", held)
        if left is not None and left - taken <= 0:
            return Answer("tokens", taken)
        self._places[hold.key] += hold.places
        self._tokens[hold.key] += hold.tokens
        return Answer("held", taken)

    async def release(self, hold: Lease) -> None:
        """As `Holds` says."""
        self._places[hold.key] -= hold.places
        self._tokens[hold.key] -= hold.tokens

    async def add_debt(self, key: str, tokens: int) -> None:
        """As `Holds` says."""
        self._owed[key] += tokens

    async def pay_debt(self, key: str, most: int) -> int:
        """As `Holds` says."""
        paid = min(self._owed[key], most)
        self._owed[key] -= paid
        return paid


def new_lease(key: str, places: int, tokens: int) -> Lease:
    """Something to take, under a name of its own."""
    return Lease(key, places, tokens, uuid.uuid4().hex)
