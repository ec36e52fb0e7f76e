"""Nulls: in a request, null means that the field is absent, wherever the field has another default.

Clients write out fields that they do not use. Fields whose type has null keep it, since it means something there.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, JsonValue

Kind = Any
"""A type, or a form of `typing`: there is no narrower type for both."""


def without_nulls(kind: Kind, value: object) -> object:
    """Return JSON that is to be validated as `kind` without the nulls of fields that have a default.

    Nulls of required fields stay, for validation to refuse.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return without_nulls(arguments[0], value)
    if origin in (Union, UnionType):
        for form in arguments:
            value = without_nulls(form, value)
        return value
    if isinstance(value, list) and origin in (list, tuple):
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


def allows_null(kind: Kind) -> bool:
    """Return whether a type has null among its values."""
    if get_origin(kind) is Annotated:
        return allows_null(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return any(allows_null(form) for form in get_args(kind))
    return kind in (Any, None, NoneType, JsonValue)


def fields_of(kind: Kind) -> dict[str, tuple[Kind, bool]]:
    """Return the fields of a model or dataclass by their JSON names: type, and whether there is a default."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        found = kind.model_fields.items()
        return {field.alias or name: (field.annotation, not field.is_required()) for name, field in found}
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return {
            f.name: (hints[f.name], not (f.default is MISSING and f.default_factory is MISSING)) for f in fields(kind)
        }
    return {}


def _drops_null(kind: Kind, has_default: bool) -> bool:
    return has_default and not allows_null(kind)
