"""JSON body parsing, strict: NaN, infinity and lone surrogates are errors."""

import difflib
import json
from typing import TypeVar

from pydantic import BaseModel

from server.errors import bad_request
from server.schemas.generation import GenerationRequest

T = TypeVar("T", bound=BaseModel)


def parse_body(kind: type[T], body: bytes) -> T:
    """Parse a JSON body. Raises a 400 for invalid JSON, NaN, infinity or a lone surrogate."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
        text = json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise bad_request("the text is not valid Unicode (a lone surrogate or broken UTF-8)", param=None) from error
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not valid JSON: {error}", param=None, code="invalid_json") from error
    if not isinstance(value, dict):
        raise bad_request("the body must be a JSON object", param=None)
    if issubclass(kind, GenerationRequest):
        _check_misplaced_steering(value.keys() - kind.model_fields)
    return kind.model_validate_json(text, strict=True)


def _check_misplaced_steering(unknown: set[str]) -> None:
    """Unknown OpenAI fields are ignored, but a misspelt `steering` must not run unsteered. Raises a 400."""
    for name in sorted(n for n in unknown if len(n) < 16)[:64]:
        if name in ("preset", "features"):
            raise bad_request(f"{name!r} belongs into 'steering'", param=name, code="unknown_field")
        if difflib.SequenceMatcher(None, name.lower(), "steering").ratio() > 0.8:
            raise bad_request(f"no field {name!r}; did you mean 'steering'?", param=name, code="unknown_field")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
