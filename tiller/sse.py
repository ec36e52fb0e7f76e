"""Server-sent events: lines in, events out. Knows the format and how to go on after a break; opens no connection."""

import json
from dataclasses import dataclass

from tiller.errors import TillerError, broken
from tiller.models import Chunk, Event

DONE = "[DONE]"
PATIENCE = 5
"""How often in a row a connection may break without a single event."""


@dataclass(frozen=True)
class Sent:
    """One event as it was sent."""

    id: int
    """0 where it has none."""
    kind: str
    data: str


class Lines:
    """Collects lines until they are an event."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}

    def take(self, line: str) -> Sent | None:
        """The event that this line ends, if it ends one."""
        if line:
            name, _, value = line.partition(":")
            if name:  # a line that begins with a colon only says that somebody is there
                before = self._fields.get("data")
                value = value.removeprefix(" ")
                self._fields[name] = f"{before}\n{value}" if name == "data" and before is not None else value
            return None
        fields, self._fields = self._fields, {}
        number = fields.get("id", "")
        found = Sent(int(number) if number.isdecimal() else 0, fields.get("event", "message"), fields.get("data", ""))
        return found if "data" in fields else None


def chunk_of(sent: Sent) -> Chunk:
    """A piece of a reply. Raises TillerError for a reply that broke."""
    body = json.loads(sent.data)
    if "error" in body:
        raise broken(body)
    return Chunk.from_json(body)


class Followed:
    """How far a job's events have been followed, over as many connections as it takes."""

    def __init__(self) -> None:
        self.last, self._left = 0, PATIENCE

    @property
    def headers(self) -> dict[str, str]:
        """What asks for the events after the last one."""
        return {"Last-Event-ID": str(self.last)}

    def take(self, sent: Sent) -> Event:
        """Note an event."""
        self.last, self._left = sent.id or self.last, PATIENCE
        return Event(id=sent.id, kind=sent.kind, data=json.loads(sent.data))

    def pause(self, error: TillerError) -> float:
        """Seconds to wait before the next try. Raises the error if a try more would not help."""
        if error.status is not None or self._left == 0:
            raise error
        self._left -= 1
        return 0.2 * 2 ** (PATIENCE - 1 - self._left)
