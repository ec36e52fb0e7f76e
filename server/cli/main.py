"""Command `tiller`: a table of commands, each imported when it is invoked.

`tiller --help` and usage errors are printed without importing torch: the table holds the one-line
help of every command.
"""

import importlib
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from server.cli.terminal import TerminalConsole
from server.version import VERSION, git_commit

Command = TyperCommand | TyperGroup


@dataclass(frozen=True)
class Entry:
    """One command or group of commands."""

    help: str
    """First line of its docstring; a test keeps the two equal."""
    target: str
    """`module:name` below `server.cli`: a function, or the Typer application of a group."""
    hidden: bool = False


COMMANDS = {
    "serve": Entry("Start the server and the page.", "serve:app"),
    "trainer": Entry("Run background jobs and drift checks, without serving.", "trainer:trainer"),
    "config": Entry("Print the settings in force as TOML, each with its source; secrets are hidden.", "config:config"),
    "chat": Entry("Print the default and the steered reply side by side.", "chat:chat"),
    "presets": Entry("List the personas: the bundle's and your own.", "chat:presets"),
    "model": Entry("The bundle's model: fetch it, print its path.", "model:app"),
    "doctor": Entry("Check what the server needs; exit with 1 if something is missing.", "doctor:doctor"),
    "features": Entry("Search the features.", "features:features"),
    "describe": Entry(
        "Measure every feature on text: maximum, density, examples and logit lens. Writes the bundle.",
        "features:describe",
    ),
    "label": Entry("Label features and score the labels on held-out text. Writes the bundle.", "features:label"),
    "map": Entry("Draw the feature map: similar directions lie close together, clusters are named.", "features:map_"),
    "analyze": Entry(
        "Print the features that a text activates: in all, by speaker and along the text.", "analyze:analyze"
    ),
    "contrast": Entry("Print the features that separate two sets of texts.", "understand:contrast"),
    "attribute": Entry("Attribute the next token to features, by gradient and by ablation.", "understand:attribute"),
    "diff": Entry("Compare two checkpoints by how often features fire on the same text.", "understand:diff"),
    "calibrate": Entry("Measure the dose of features and its effect. Writes the bundle.", "calibrate:calibrate"),
    "vectors": Entry("Control vectors: import and export steering directions.", "vectors:app"),
    "sae": Entry("Import, export, train and evaluate sparse autoencoders.", "sae:app"),
    "jobs": Entry("Background jobs: submit, list, follow, pause and cancel.", "jobs:app"),
    "store": Entry("Back up the store, and restore it.", "store:app"),
    "keys": Entry("API keys: create, list and delete.", "keys:app"),
    "audit": Entry("The audit log: show it, and verify that it is complete.", "audit:app"),
    "guard": Entry("Train and test the probe that guards replies; see docs/guides/guards.md.", "guard:app"),
    "bench": Entry("Compare steering with a system prompt and other methods.", "bench:app"),
    "replica": Entry("Serve as one of several replicas (internal).", "internal:replica", hidden=True),
    "job": Entry("Run one job (internal).", "internal:job", hidden=True),
    "look": Entry("Check for drift once (internal).", "internal:check_drift", hidden=True),
}


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are invoked, not when they are listed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's own class
        """Refuse arguments that are not text: Python hands on their bytes as lone surrogates, which nothing can write."""
        for arg in args:
            if not arg.isascii() and any("\ud800" <= c <= "\udfff" for c in arg):
                shown = arg.encode(errors="surrogateescape").decode(errors="replace")
                raise typer.BadParameter(f"the argument {shown!r} is not UTF-8; write it in UTF-8")
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 - typer's own class
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:  # noqa: ANN401, ARG002 - typer's own class
        """A placeholder with the one-line help; `resolve_command` imports the real one."""
        entry = COMMANDS.get(cmd_name)
        return entry and TyperCommand(cmd_name, help=entry.help, short_help=entry.help, hidden=entry.hidden)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Command | None, list[str]]:  # noqa: ANN401 - as above
        """Import the command that the arguments name."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name and found else None, rest


def load_command(name: str) -> Command:
    """Import a command of the table."""
    module, _, attribute = COMMANDS[name].target.partition(":")
    target = getattr(importlib.import_module(f"server.cli.{module}"), attribute)
    if not isinstance(target, typer.Typer):
        group = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        group.command(hidden=COMMANDS[name].hidden)(target)
        target = group
    command = get_command(target)
    assert isinstance(command, Command)
    command.name = name
    return command


app = typer.Typer(
    name="tiller", cls=LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def _print_version(wanted: bool) -> None:
    if wanted:
        TerminalConsole().print(" ".join(filter(None, ("tiller", VERSION, git_commit()))), highlight=False)
        raise typer.Exit


@app.callback(no_args_is_help=True)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Chat with a language model and steer its features with sliders."""
