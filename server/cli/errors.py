"""Command errors: one sentence on stderr and exit code 1."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import typer

from server.cli.terminal import TerminalConsole
from server.store.base import BadStore
from steering.errors import SteeringError

T = TypeVar("T")
stderr = TerminalConsole(stderr=True)


@contextmanager
def errors_exit() -> Iterator[None]:
    """An error that the user can fix ends the command with its message, a bug keeps its traceback."""
    try:
        yield
    except (SteeringError, BadStore, OSError) as error:
        exit_with_error(str(error))


def or_exit(work: Callable[[], T]) -> T:
    """Return the result of `work`; an error that the user can fix ends the command."""
    with errors_exit():
        return work()


def exit_with_error(message: str) -> NoReturn:
    """Print the message and exit with code 1."""
    stderr.print(f"tiller: {message}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)
