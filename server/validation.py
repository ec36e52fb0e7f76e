"""Validation errors: pydantic's errors as messages for API clients.

A table by error type, with pydantic's context in braces; other types keep pydantic's message.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence, Sized
from typing import Any

Problem = Mapping[str, Any]
"""One of `ValidationError.errors()`."""

KINDS = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dataclass_type": "an object",
    "dict_type": "an object",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_parsing_size": "a number of fewer digits",
    "int_from_float": "an integer",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "an object",
    "string_type": "text",
    "tuple_type": "a list",
}
"""Expected value by error type."""
LIMITS = {
    "greater_than": "must be more than {bound}, got {given}",
    "greater_than_equal": "must be at least {bound}, got {given}",
    "less_than": "must be less than {bound}, got {given}",
    "less_than_equal": "must be at most {bound}, got {given}",
    "string_too_long": "must have at most {bound} characters, got {length}",
    "string_too_short": "must have {bound} or more characters, got {given}",
    "too_long": "must have at most {bound} items, got {length}",
    "too_short": "must have {bound} or more items, got {length}",
}
"""Messages for values outside their limits."""
BOUNDS = ("gt", "ge", "lt", "le", "min_length", "max_length")
KEYS = {"extra_forbidden": "unknown key", "missing": "field required"}
SHAPES = {
    r"^[a-z0-9][a-z0-9._-]{0,63}$": "up to 64 characters of a-z, 0-9, '.', '_' and '-', a letter or digit first",
    r"^[a-z0-9][a-z0-9._-]{0,63}$|^$": "up to 64 characters of a-z, 0-9, '.', '_' and '-', a letter or digit first, or empty",
    r"^[a-z][a-z0-9._-]{0,63}$": "up to 64 characters of a-z, 0-9, '.', '_' and '-', a letter first",
    r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,127}$": "a name of up to 128 characters without slashes, no dot first",
    r"^\S+( \S+)*$": "words with single spaces between them",
    r"^(preset|feature):": "'preset:' or 'feature:' followed by an id",
    r"^[0-9]{1,9}$": "a number, the next_cursor of the previous page",
}
"""Description of the values that a pattern matches."""


def first_error(problems: Sequence[Problem]) -> tuple[Problem, str]:
    """The first problem, and a message for it. For a union, the message is about the nearest form, or about all."""
    chief, *others = problems
    # pydantic reports each form of a union, with the form's name in the location; the form with the
    # deepest location was meant.
    forms = [chief, *(p for p in others if path(p)[: len(path(chief))] == path(chief) and _same(p, chief))]
    nearest = max(forms, key=lambda p: len(path(p)))
    wanted = [KINDS[p["type"]] for p in forms if path(p) == path(nearest) and p["type"] in KINDS]
    if nearest is chief and len(wanted) > 1:
        return chief, _wanted(" or ".join(dict.fromkeys(wanted)), chief)
    return nearest, message(nearest)


def message(problem: Problem) -> str:
    """Message for one problem, without its location."""
    if kind := KINDS.get(problem["type"]):
        return _wanted(kind, problem)
    if problem["type"] == "string_pattern_mismatch":
        pattern = problem["ctx"]["pattern"]
        return f"must be {SHAPES.get(pattern, f'a match of {pattern}')}, got {describe_value(problem['input'])}"
    if limit := LIMITS.get(problem["type"]):
        bound = next(problem["ctx"][name] for name in BOUNDS if name in problem["ctx"])
        length = len(problem["input"]) if isinstance(problem["input"], Sized) else ""
        return limit.format(
            bound=f"{bound:.15g}" if isinstance(bound, float) else bound,
            given=describe_value(problem["input"]),
            length=length,
        )
    if key := KEYS.get(problem["type"]):
        return key
    text = problem["msg"].removeprefix("Value error, ")
    return (
        f"{text} (got {describe_value(problem['input'])})" if isinstance(problem["input"], str | int | float) else text
    )


def path(problem: Problem) -> tuple[str, ...]:
    """Location in the caller's own keys: pydantic's also contain names of a union's forms and of validators."""
    at = problem["loc"]
    theirs = (
        len(at) - 1 if problem["type"] == "extra_forbidden" else len(at)
    )  # the unknown key itself, whatever it contains
    return tuple(str(p) for i, p in enumerate(at) if isinstance(p, int) or i == theirs or p.replace("_", "").isalnum())


def describe_value(value: object) -> str:
    """The input as JSON; of objects and lists, only the type."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:59]}…")
    if isinstance(value, bool | int | float | None):
        return json.dumps(value)[:60]
    return "an object" if isinstance(value, Mapping) else "a list"


def _wanted(kind: str, problem: Problem) -> str:
    expected = problem.get("ctx", {}).get("expected", "")
    said = f"must be {kind.format(expected=expected)}, got {describe_value(problem['input'])}"
    near = difflib.get_close_matches(str(problem["input"]).lower()[:60], re.findall(r"'([^']*)'", expected), 1)
    return f"{said}; did you mean {near[0]!r}?" if near else said


def _same(one: Problem, chief: Problem) -> bool:
    """Whether it is about the same value as the chief, or about something within it; a key's
    problem is not its value's."""
    return path(one) != path(chief) or one["input"] is chief["input"]
