"""How a command ends that cannot do what it was told: one sentence and exit code 1. Knows which errors are a person's to mend."""

from collections.abc import Callable
from typing import NoReturn, TypeVar

import typer
from rich.console import Console

from server.store.base import BadStore
from steering.errors import SteeringError

T = TypeVar("T")
stderr = Console(stderr=True)


def or_exit(work: Callable[[], T]) -> T:
    """What `work` gives; what whoever called can mend ends the command in a sentence, a bug keeps its traceback."""
    try:
        return work()
    except (SteeringError, BadStore, OSError) as error:
        exit_with_error(str(error))


def exit_with_error(message: str) -> NoReturn:
    """Say it and end."""
    stderr.print(f"tiller: {message}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1)
