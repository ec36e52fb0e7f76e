"""Body limits: how many items the lists and objects of a JSON body may have, checked before any of them is validated.

pydantic validates all items of a list that is too long and reports an error for each: a body of a megabyte could have
hundreds of thousands of errors, which it collects in one go, while nothing else can run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from annotated_types import MaxLen
from pydantic import PlainValidator
from pydantic.fields import FieldInfo

from server.api.json_types import Kind, fields_of
from server.errors import bad_request

MAX_ITEMS = 4096
"""Maximum number of items of a list or object whose type has no limit of its own."""
MAX_KEYS = 256
"""Maximum number of keys of an object with named fields."""
MAX_TOTAL = 50_000
"""Maximum number of items of all lists of a body."""


def check_items(kind: Kind, value: object, *, total: int = MAX_TOTAL) -> None:
    """Raise a 400 for the first list or object of a body that has more items than its type allows, or for more than `total`
    items of all lists.
    """
    _Count(total, total).check(kind, value, (), MAX_ITEMS)


@dataclass
class _Count:
    """Items that a body may still have, of `total`."""

    left: int
    total: int

    def check(self, kind: Kind, value: object, place: tuple[str, ...], most: int) -> None:
        """Check a value; `most` is the limit of its items, where its type does not say another."""
        if not isinstance(value, list | dict):
            return
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            limits = _flat(arguments[1:])
            if not any(isinstance(m, PlainValidator) for m in limits):  # which ends at the first error by itself
                most = next((m.max_length for m in limits if isinstance(m, MaxLen)), most)
                self.check(arguments[0], value, place, most)
        elif origin in (Union, UnionType):
            for form in arguments:
                self.check(form, value, place, most)
        elif isinstance(value, list):
            if origin in (list, tuple):
                _refuse_more(value, place, most, "items")
                self._count(value)
                for i, each in enumerate(value):
                    self.check(arguments[0], each, (*place, str(i)), MAX_ITEMS)
        elif origin is dict:
            _refuse_more(value, place, most, "items")
            for name, each in value.items():
                self.check(arguments[1], each, (*place, name), MAX_ITEMS)
        elif known := fields_of(kind):
            _refuse_more(value, place, MAX_KEYS, "keys")
            for name in sorted(value.keys() & known.keys()):
                self.check(known[name][0], value[name], (*place, name), MAX_ITEMS)

    def _count(self, value: list[Any]) -> None:
        self.left -= len(value)
        if self.left < 0:
            raise bad_request(f"the lists of the body have more than {self.total} items in all: send less", param=None)


def _refuse_more(value: list[Any] | dict[str, Any], place: tuple[str, ...], most: int, what: str) -> None:
    if len(value) > most:
        where = ".".join(place)
        said = f"must have at most {most} {what}, got {len(value)}"
        raise bad_request(f"{where}: {said}" if where else f"the body {said}", param=where or None)


def _flat(metadata: Sequence[Any]) -> list[object]:
    return [each for m in metadata for each in (m.metadata if isinstance(m, FieldInfo) else (m,))]
