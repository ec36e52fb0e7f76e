"""`tiller bench`: compare steering with other methods."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.errors import or_exit
from server.cli.options import ShippedBundle
from server.settings import EMBEDDED
from steering.bakeoff.steering_report import run

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Compare steering with a system prompt and other methods."
)


@app.callback()
def group() -> None:
    """Group callback: keeps `steering` a subcommand although it is the only one."""


@app.command("steering")
def bench_steering(
    bundle: ShippedBundle = EMBEDDED,
    concepts: Annotated[
        str, typer.Option(help="smollm2, harbor (for those bundles), general, or a JSON file.")
    ] = "smollm2",
    out: Annotated[Path, typer.Option(help="Folder for JSON, Markdown and charts.")] = Path("steering-report"),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    most: Annotated[int | None, typer.Option(min=1, help="Number of concepts, from the first on.")] = None,
) -> None:
    """Compare steering with a prompt, other directions and nulls, equally tuned; write a report.

    Example: tiller bench steering --out report
    """
    or_exit(lambda: run(bundle, concepts, out, device=device, seeds=seeds, most=most))
