"""How a command ends that cannot do what it was told: one sentence and exit code 1. Knows which errors are a person's to mend."""

from collections.abc import Callable
from typing import NoReturn, TypeVar

import typer
from rich.console import Console

from server.store.base import BadStore
from steering.errors import SteeringError

T = TypeVar("T")
problems = Console(stderr=True)


def expected(work: Callable[[], T]) -> T:
    """What `work` gives; what whoever called can mend ends the command in a sentence, a bug keeps its traceback."""
    try:
        return work()
    except (SteeringError, BadStore, OSError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Say it and end."""
    problems.print(f"tiller: {message}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1)
