"""JSON request bodies: a dependency that parses them strictly. NaN, infinity and lone surrogates are errors.

Clients write out fields that they do not use, as null, and fields of other servers: null means that a field is absent, and
a field of another server is refused if it would change the answer, else ignored (`schemas/client_fields.py`).
"""

import difflib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

from fastapi import Request
from pydantic import BaseModel

from server.api.body_limits import MAX_TOTAL, check_items
from server.api.json_types import Kind, allows_null, fields_of
from server.errors import bad_request
from server.executors import PARSING, run_in
from server.schemas.client_fields import KNOWN, REFUSED, Refused, Route, unsupported
from server.schemas.generation import ChatRequest, GenerationRequest

T = TypeVar("T", bound=BaseModel)
LARGE = 16_384
"""Bytes above which a body is parsed in a thread, so that other requests are not delayed."""


@dataclass(frozen=True)
class JsonBody(Generic[T]):
    """Dependency that parses the request's body as `model`; an optional body may be empty.

    FastAPI's own body parameters convert values (`"1"` to 1) and name errors differently, so bodies are read here.
    """

    model: type[T]
    optional: bool = False
    total: int = MAX_TOTAL
    """Maximum number of items of all its lists."""
    executor: ThreadPoolExecutor = PARSING

    async def __call__(self, request: Request) -> T:
        """Read and parse the body. Raises a 400."""
        body = await request.body()
        if self.optional and not body.strip():
            return self.model()
        if len(body) <= LARGE:
            return parse_body(self.model, body, total=self.total)
        return await run_in(self.executor, parse_body, self.model, body, total=self.total)


def parse_body(kind: type[T], body: bytes, *, total: int = MAX_TOTAL) -> T:
    """Parse a JSON body. Raises a 400 for invalid JSON, NaN, infinity, a lone surrogate or too many items."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise bad_request("the text is not valid Unicode (a lone surrogate or broken UTF-8)", param=None) from error
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not valid JSON: {error}", param=None, code="invalid_json") from error
    if not isinstance(value, dict):
        raise bad_request("the body must be a JSON object", param=None)
    if issubclass(kind, GenerationRequest):
        value = _without_client_fields(kind, value)
    check_items(kind, value, total=total)
    return kind.model_validate_json(json.dumps(without_nulls(kind, value), ensure_ascii=False), strict=True)


def without_nulls(kind: Kind, value: object) -> object:
    """Return JSON that is to be validated as `kind` without the nulls of fields that have another default.

    Nulls of required fields stay, for validation to refuse, and so do those of fields whose type has null.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return without_nulls(arguments[0], value)
    if origin in (Union, UnionType):
        for form in arguments:
            value = without_nulls(form, value)
        return value
    if isinstance(value, list):
        if origin not in (list, tuple) or not _has_fields(arguments[0]):  # numbers may be millions
            return value
        return [without_nulls(arguments[0], each) for each in value]
    if not isinstance(value, Mapping):
        return value
    if origin is dict:
        kept = value if allows_null(arguments[1]) else {k: v for k, v in value.items() if v is not None}
        return {k: without_nulls(arguments[1], v) for k, v in kept.items()}
    known = fields_of(kind)
    return {
        key: without_nulls(known[key][0], each) if key in known else each
        for key, each in value.items()
        if each is not None or key not in known or not _drops_null(*known[key])
    }


def refuse_unsupported(body: Mapping[str, Any], route: Route) -> None:
    """Raise a 400 for the first field of a body that would change the answer and is not supported."""
    for field in REFUSED:
        if field.route in (None, route) and _asks(field, body):
            raise unsupported(field.name, f"{field.name} is not supported: {field.instead}")


def _without_client_fields(kind: type[GenerationRequest], value: dict[str, Any]) -> dict[str, Any]:
    """The body without fields of other servers that change nothing. Raises a 400 for those that would, and for a
    misspelt `steering`.
    """
    _check_misplaced_steering(value.keys() - kind.model_fields)
    refuse_unsupported(value, "chat" if issubclass(kind, ChatRequest) else "completions")
    return {key: each for key, each in value.items() if key in kind.model_fields or key not in KNOWN}


def _check_misplaced_steering(unknown: set[str]) -> None:
    """Unknown OpenAI fields are ignored, but a misspelt `steering` must not run unsteered. Raises a 400."""
    for name in sorted(n for n in unknown if len(n) < 16)[:64]:
        if name in ("preset", "features"):
            raise bad_request(f"{name!r} belongs into 'steering'", param=name, code="unknown_field")
        if difflib.SequenceMatcher(None, name.lower(), "steering").ratio() > 0.8:
            raise bad_request(f"no field {name!r}; did you mean 'steering'?", param=name, code="unknown_field")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _asks(field: Refused, body: Mapping[str, Any]) -> bool:
    value = body.get(field.name)
    if value is None or any(_equal(value, n) for n in field.neutral):
        return False
    if field.unless and body.get(field.unless[0]) == field.unless[1]:
        return False
    if field.same_as:
        other = body.get(field.same_as)
        return not _equal(value, 1 if other is None else other)
    return True


def _equal(one: object, other: object) -> bool:
    """Return whether two JSON values are equal; true and 1 are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _drops_null(kind: Kind, has_default: bool) -> bool:
    return has_default and not allows_null(kind)


def _has_fields(kind: Kind) -> bool:
    """Return whether values of a type are or hold objects."""
    if get_origin(kind) is Annotated:
        return _has_fields(get_args(kind)[0])
    return get_origin(kind) is dict or bool(fields_of(kind)) or any(map(_has_fields, get_args(kind)))
