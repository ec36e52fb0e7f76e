"""JSON request bodies: a dependency that parses them strictly. NaN, infinity and lone surrogates are errors."""

import asyncio
import difflib
import json
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel

from server.errors import bad_request
from server.schemas.client_fields import KNOWN, refuse_unsupported
from server.schemas.generation import ChatRequest, GenerationRequest
from server.schemas.nulls import without_nulls

T = TypeVar("T", bound=BaseModel)
LARGE = 65_536
"""Bytes above which a body is parsed in a thread, so that other requests are not delayed."""


@dataclass(frozen=True)
class JsonBody(Generic[T]):
    """Dependency that parses the request's body as `model`; an optional body may be empty.

    FastAPI's own body parameters convert values (`"1"` to 1) and name errors differently, so bodies are read here.
    """

    model: type[T]
    optional: bool = False

    async def __call__(self, request: Request) -> T:
        """Read and parse the body. Raises a 400."""
        body = await request.body()
        if self.optional and not body.strip():
            return self.model()
        return (
            await asyncio.to_thread(parse_body, self.model, body) if len(body) > LARGE else parse_body(self.model, body)
        )


def parse_body(kind: type[T], body: bytes) -> T:
    """Parse a JSON body; a null field is absent (`nulls.py`). Raises a 400 for invalid JSON, NaN, infinity or a lone
    surrogate.
    """
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
    return kind.model_validate_json(json.dumps(without_nulls(kind, value), ensure_ascii=False), strict=True)


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
