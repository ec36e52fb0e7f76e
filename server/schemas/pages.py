"""Page of a list."""

from collections.abc import Sequence
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel

T = TypeVar("T")
Verdict = Literal["ok", "strained", "broken"]


class Page(BaseModel, Generic[T]):
    """A page of a list; `next_cursor` is set if there is more."""

    object: Literal["list"]
    data: list[T]
    has_more: bool
    next_cursor: str | None

    @classmethod
    def of_all(cls, data: Sequence[T]) -> Self:
        """The only page of a list."""
        return cls(object="list", data=[*data], has_more=False, next_cursor=None)

    @classmethod
    def at(cls, data: Sequence[T], start: int, size: int, **fields: Any) -> Self:  # noqa: ANN401 - of a subclass
        """The page that starts at `start`; its cursor is the next start. `fields` are those of a subclass."""
        more = len(data) > start + size
        cursor = str(start + size) if more else None
        return cls(object="list", data=[*data[start : start + size]], has_more=more, next_cursor=cursor, **fields)
