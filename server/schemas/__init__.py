"""Request and response models of the HTTP API, one module a topic.

A field with a default may be omitted. Modules are imported on first use: the trainer process needs the jobs' models and
must not load torch for them.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.schemas import analysis, completions, features, pages, saes, service, user_data

__all__ = ["analysis", "completions", "features", "pages", "saes", "service", "user_data"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
