"""The command `tiller`: a table of commands, each imported when it is called.

`tiller --help` and shell errors answer without importing torch: the table holds the one-line help of every command.
"""

import importlib
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from server.version import VERSION, git_commit

Command = TyperCommand | TyperGroup


@dataclass(frozen=True)
class Entry:
    """One command or group of commands."""

    help: str
    """The first line of its docstring; a test keeps the two equal."""
    target: str
    """`module:name` below `server.cli`: a function, or the Typer application of a group."""
    hidden: bool = False


COMMANDS = {
    "serve": Entry(
        "Start the server and the page. A setting is a flag, a variable or a line of a TOML file.", "serve:app"
    ),
    "trainer": Entry("Run queued jobs and drift checks in the background.", "trainer:trainer"),
    "config": Entry(
        "Print the settings in force as a TOML file, each with its source; secrets are hidden.", "config:config"
    ),
    "chat": Entry("Answer one message and stop, without a server.", "chat:chat"),
    "presets": Entry("List the presets.", "chat:presets"),
    "doctor": Entry("Check the installation: packages, model, SAE, store, guards and page.", "doctor:doctor"),
    "features": Entry("Search features by words, or by a text that evokes them.", "features:features"),
    "describe": Entry("Describe features: top activations, firing tokens and output logits.", "features:describe"),
    "label": Entry("Label features, and score the labels by detection.", "features:label"),
    "map": Entry("Draw the map of features.", "features:map_"),
    "analyze": Entry("Show which features a text evokes.", "analyze:analyze"),
    "contrast": Entry("Find the features that separate two sets of texts.", "understand:contrast"),
    "attribute": Entry("Show which features made a token likely.", "understand:attribute"),
    "diff": Entry("Compare two models by the features that fire in their replies.", "understand:diff"),
    "calibrate": Entry("Measure the dose of features.", "calibrate:calibrate"),
    "sae": Entry("Import, export, train and evaluate sparse autoencoders.", "sae:app"),
    "jobs": Entry("Background jobs: list, follow, pause and cancel.", "jobs:app"),
    "store": Entry("Back up the store, and restore it.", "store:app"),
    "keys": Entry("API keys: make, list and delete.", "keys:app"),
    "audit": Entry("The audit log: read and verify.", "audit:app"),
    "guard": Entry("Train and test the probes that guard replies.", "guard:app"),
    "bench": Entry("Measure steering, beside a system prompt and other methods.", "bench:app"),
    "replica": Entry("Serve as one of several replicas (internal).", "internal:replica", hidden=True),
    "job": Entry("Run one job (internal).", "internal:job", hidden=True),
    "look": Entry("Check for drift once (internal).", "internal:look", hidden=True),
}


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are invoked, not when they are listed."""

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
        group = typer.Typer(pretty_exceptions_enable=False)
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
        Console().print(" ".join(filter(None, ("tiller", VERSION, git_commit()))), highlight=False)
        raise typer.Exit


@app.callback(no_args_is_help=True)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Chat with a language model while you turn its features up and down."""
