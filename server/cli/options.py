"""Settings as command options: one per field, with its docstring as the help.

Secrets have no option: process lists would show them.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from server.cli.terminal import TerminalConsole
from server.settings import BadSettings, Settings, bundle_folder, flag, is_secret, load_settings, variable

problems = TerminalConsole(stderr=True)
Bundle_ = Annotated[
    Path | None, typer.Option("--bundle", envvar="TILLER_BUNDLE", help="Folder with bundle.json: model, SAE, presets.")
]
ShippedBundle = Annotated[
    Path,
    typer.Option(
        "--bundle",
        envvar="TILLER_BUNDLE",
        help="Folder with bundle.json, or the name of a shipped bundle.",
        show_default="smollm2",
        callback=bundle_folder,
    ),
]
"""For commands that read no other setting."""
Text_ = Annotated[
    list[Path] | None,
    typer.Option(
        "--text",
        help="Text to read: lines, or JSONL with `text` or `messages`; repeat it. The bundle's own if not given.",
    ),
]
Corpus_ = Annotated[list[Path] | None, typer.Option("--corpus", hidden=True)]
"""The former name of `--text`."""
Model_ = Annotated[
    str | None,
    typer.Option("--model", envvar="TILLER_MODEL", help="Folder or hub id that replaces the bundle's model."),
]
Device_ = Annotated[str | None, typer.Option("--device", envvar="TILLER_DEVICE", help="auto, cpu, cuda or mps.")]


def with_settings_options(*leave_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command that takes `**given` with an option per setting, except those named."""

    def made(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = [name for name in Settings.model_fields if not is_secret(name) and name not in leave_out]
        flags = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name))
            for name in names
        ]
        command.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in [*own, *flags]} | {"return": None}
        return command

    return made


def settings_from_options(**given: object) -> Settings:
    """The settings with the command line's options; invalid ones end the command with a message."""
    try:
        return load_settings(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v != []})
    except BadSettings as error:
        problems.print(f"tiller: {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _option(name: str) -> Any:  # noqa: ANN401 - an annotation
    field = Settings.model_fields[name]
    words = f"{flag(name)}/--no-{name.replace('_', '-')}" if field.annotation is bool else flag(name)
    text = f"{field.description} [{variable(name)}]"
    return Annotated[_type(field.annotation), typer.Option(words, help=text, show_default=False)]


def _type(annotation: Any) -> Any:  # noqa: ANN401 - an annotation
    """Type for typer; closed sets and bounds are validated together with the value's other sources."""
    if get_origin(annotation) is tuple:
        return list[get_args(annotation)[0]] | None
    plain = next((kind for kind in (bool, int, float, Path) if kind in (annotation, *get_args(annotation))), str)
    return plain | None
