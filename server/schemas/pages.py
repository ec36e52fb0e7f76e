"""Page of a list."""

from typing import Literal

from pydantic import BaseModel

Verdict = Literal["ok", "strained", "broken"]


class Page(BaseModel):
    """A page of a list; `next_cursor` is set if there is more."""

    object: Literal["list"]
    has_more: bool
    next_cursor: str | None
