"""What every list has. Schemas alone."""

from typing import Literal

from pydantic import BaseModel

Verdict = Literal["ok", "strained", "broken"]


class Page(BaseModel):
    """A list; `next_cursor` goes on where there is more."""

    object: Literal["list"]
    has_more: bool
    next_cursor: str | None
