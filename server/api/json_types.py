"""JSON types: the fields of models and dataclasses by the names that they have in JSON."""

from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, JsonValue

Kind = Any
"""A type, or a form of `typing`: there is no narrower type for both."""


@lru_cache(maxsize=256)
def fields_of(kind: Kind) -> dict[str, tuple[Kind, bool]]:
    """Return the fields of a model or dataclass by their JSON names: type with its limits, and whether there is a default."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {
            field.alias or name: (
                Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation,
                not field.is_required(),
            )
            for name, field in kind.model_fields.items()
        }
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return {
            f.name: (hints[f.name], not (f.default is MISSING and f.default_factory is MISSING)) for f in fields(kind)
        }
    return {}


def allows_null(kind: Kind) -> bool:
    """Return whether a type has null among its values."""
    if get_origin(kind) is Annotated:
        return allows_null(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return any(allows_null(form) for form in get_args(kind))
    return kind in (Any, None, NoneType, JsonValue)
