"""Server-sent events: chunks of a reply, and a job's events across reconnections."""

import json

from httpx_sse import ServerSentEvent

from tiller.errors import TillerError, broken
from tiller.models import Chunk, Event

DONE = "[DONE]"
PATIENCE = 5
"""Consecutive broken connections without an event before the error is raised."""


def chunk_of(sent: ServerSentEvent) -> Chunk:
    """Parse a chunk of a reply. Raises TillerError for an error event."""
    body = json.loads(sent.data)
    if "error" in body:
        raise broken(body)
    return Chunk.from_json(body)


class Followed:
    """Position in a job's event stream, kept across reconnections."""

    def __init__(self) -> None:
        self.last, self._left = 0, PATIENCE

    @property
    def headers(self) -> dict[str, str]:
        """Headers that request the events after the last one."""
        return {"Last-Event-ID": str(self.last)}

    def take(self, sent: ServerSentEvent) -> Event:
        """Parse an event and remember its number."""
        number = int(sent.id) if sent.id.isdecimal() else 0
        self.last, self._left = number or self.last, PATIENCE
        return Event(id=number, kind=sent.event, data=json.loads(sent.data))

    def pause(self, error: TillerError) -> float:
        """Seconds before the next attempt. Raises the error if another attempt would not help."""
        if error.status is not None or self._left == 0:
            raise error
        self._left -= 1
        return 0.2 * 2 ** (PATIENCE - 1 - self._left)
