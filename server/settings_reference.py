"""Settings as text: the effective values with their sources, and the reference page."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from server.settings import EMBEDDED, Settings, flag, is_secret, variable

HEAD = """# Configuration

`tiller config --reference` generates this page from the code; a test compares the two.

Every setting can be given in four ways, in this order of precedence:

1. an option of `tiller serve`, `tiller trainer` or `tiller config`, such as `--max-push 3`; repeat the option
   for a list. With `--engine vllm`, unknown options are passed on to vLLM.
2. an environment variable, such as `TILLER_MAX_PUSH=3`; a list is JSON there: `TILLER_CORPUS='["a.jsonl", "b.jsonl"]'`.
   All commands read them.
3. a line of a TOML file, such as `max_push = 3`, named with `--config tiller.toml` or `TILLER_CONFIG`. An unknown
   key is an error that names the nearest setting.
4. the default.

`REDIS_URL` and `OTEL_EXPORTER_OTLP_ENDPOINT`, as platforms set them, are used if none of these sets one. Secrets have no option,
because process lists would show it. `tiller config` prints the effective values and the source of each.

```toml
# tiller.toml
host = "0.0.0.0"
redis_url = "redis://localhost:6379/0"
workers = 2
corpus = ["chats.jsonl"]
```
"""


def effective(settings: Settings, origins: Mapping[str, str]) -> str:
    """All settings as a TOML file with the source of each; secrets are hidden."""
    lines = [_line(name, getattr(settings, name), origins[name]) for name in Settings.model_fields if name != "config"]
    return "\n".join(lines) + "\n"


def reference() -> str:
    """The page docs/reference/configuration.md."""
    rows = [_row(name) for name in Settings.model_fields]
    head = ["| setting | flag | variable | takes | default | |", "|---|---|---|---|---|---|"]
    return "\n".join([HEAD, *head, *rows]) + "\n"


def _line(name: str, value: Any, origin: str) -> str:  # noqa: ANN401 - any setting's
    shown = _without_password(value) if isinstance(value, str) else value
    if value is None:
        return f"# {name} is not set"
    if isinstance(value, SecretStr) or shown != value:
        return f"# {name} = {_toml('hidden' if isinstance(value, SecretStr) else shown)}  # {origin}"
    return f"{name} = {_toml(value)}  # {origin}"


def _toml(value: Any) -> str:  # noqa: ANN401 - any setting's
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _without_password(text: str) -> str:
    return re.sub(r"(?<=://)([^/@]*):[^/@]*@", r"\1:hidden@", text)


def _row(name: str) -> str:
    field = Settings.model_fields[name]
    option = {True: f"`{flag(name)}`", False: "—"}[not is_secret(name)]
    if field.annotation is bool:
        option = f"`{flag(name)}`, `--no-{name.replace('_', '-')}`"
    takes = _takes(field.annotation) + _bounds(field.metadata)
    return f"| `{name}` | {option} | `{variable(name)}` | {takes} | {_default(field.default)} | {field.description} |"


def _takes(annotation: Any) -> str:  # noqa: ANN401 - an annotation
    kinds = {bool: "true or false", int: "an integer", float: "a number", Path: "a path", str: "text"}
    if annotation in kinds:
        return kinds[annotation]
    if annotation is SecretStr:
        return "a secret"
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    inner = _takes(next(kind for kind in get_args(annotation) if kind not in (type(None), ...)))
    return f"a list: {inner}" if get_origin(annotation) is tuple else inner


def _bounds(metadata: list[Any]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [f"{sign} {getattr(rule, key):g}" for rule in metadata for key, sign in signs.items() if hasattr(rule, key)]
    return f", {', '.join(found)}" if found else ""


def _default(value: Any) -> str:  # noqa: ANN401 - any setting's
    if value in (None, (), PydanticUndefined):
        return "—"
    if value == EMBEDDED:
        return "the embedded bundle"
    if isinstance(value, Path):
        return f"`~/{value.relative_to(Path.home())}`" if value.is_relative_to(Path.home()) else f"`{value}`"
    return f"`{json.dumps(value)}`"
