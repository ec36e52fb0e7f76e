"""`tiller config`: the settings in force."""

from typing import Annotated

import typer

from server import settings_reference
from server.cli.errors import stderr
from server.cli.options import settings_from_options, with_settings_options
from server.settings import origins, unknown_variables


@with_settings_options()
def config(
    reference: Annotated[
        bool, typer.Option("--reference", help="Write docs/reference/configuration.md instead.")
    ] = False,
    **given: object,
) -> None:
    """Print the settings in force as TOML, each with its source; secrets are hidden.

    Example: TILLER_PORT=8080 tiller config --config tiller.toml --max-push 3
    """
    settings = settings_from_options(**given)
    if reference:
        typer.echo(settings_reference.reference(), nl=False)
        return
    typer.echo(settings_reference.effective(settings, origins(**given)), nl=False)
    for name, near in unknown_variables().items():
        stderr.print(f"{name} is not a setting{f'; did you mean {near}?' if near else ''}", highlight=False)
