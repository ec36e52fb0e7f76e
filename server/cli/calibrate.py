"""`tiller calibrate`: measure doses."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from server.cli.errors import errors_exit
from server.cli.options import Corpus_, settings_from_options
from server.cli.terminal import TerminalConsole
from server.jobs.tasks.calibrate import CalibrateConfig, calibrate_bundle
from steering.catalogue.feature import Feature
from steering.spec import Preset

console = TerminalConsole()
Unused_ = Annotated[list[Path] | None, typer.Option("--text", hidden=True)]
"""Accepted and not used: effects were measured on words of a text once."""


def calibrate(
    features: Annotated[list[str] | None, typer.Argument(help="Ids of features, such as smollm2/12.")] = None,
    presets: Annotated[
        bool, typer.Option("--presets/--no-presets", help="The features of all presets, and each preset's scale.")
    ] = True,
    every: Annotated[bool, typer.Option("--all", help="Every feature that is ever active.")] = False,
    screen: Annotated[
        bool, typer.Option("--screen", help="First screen all active features, by four short replies each.")
    ] = False,
    best: Annotated[int, typer.Option(min=0, help="This many features that promise most by their screening.")] = 0,
    prompts: Annotated[int, typer.Option(min=4, max=32, help="Number of the fixed prompts to use.")] = 32,
    bundle: Annotated[Path | None, typer.Option(envvar="TILLER_BUNDLE")] = None,
    text: Unused_ = None,  # noqa: ARG001 - as above
    corpus: Corpus_ = None,  # noqa: ARG001
) -> None:
    """Measure the dose of features and its effect. Writes the bundle.

    A running server measures with a job instead: tiller jobs submit calibrate
    Example: tiller calibrate smollm2/12 smollm2/40 --no-presets
    """
    settings = settings_from_options(bundle=bundle)
    order = CalibrateConfig(
        features=tuple(features or ()), presets=presets, all=every, screen=screen, best=best, prompts=prompts
    )
    with errors_exit(), console.status("measuring") as status:
        done, scales = calibrate_bundle(settings, order, lambda n, of: status.update(f"measuring {n} of {of}"))
    console.print(_table(done))
    if presets and scales:
        console.print(_scale_table(scales))
    works = sum(bool(f.calibration and f.calibration.works) for f in done)
    console.print(f"{len(done)} features measured; {works} have an effect that a random direction does not have")


def _table(features: list[Feature]) -> Table:
    table = Table("feature", "label", "dose 1.0", "interval", "effect", "z", "works", "sweet spot")
    for f in features:
        if (c := f.calibration) is None:
            continue
        full = next((p.effect for p in reversed(c.points) if p.raw > 0), None)
        spot, low_high = f.sweet_spot, c.interval
        table.add_row(
            f.id,
            f.label[:40],
            f"{f.dose:.1f}" if f.dose else "",
            f"{low_high[0]:.2f} … {low_high[1]:.2f}" if low_high else "",
            "" if full is None else f"{full:+.2f}",
            f"{c.z:.1f}",
            "yes" if c.works else "no",
            f"{spot.low:.2f} … {spot.high:.2f}" if spot else "none",
        )
    return table


def _scale_table(presets: list[Preset]) -> Table:
    table = Table("preset", "scale's sweet spot", "z", "its words")
    for p in presets:
        if c := p.calibration:
            spot = f"{p.sweet_spot.low:.2f} … {p.sweet_spot.high:.2f}" if p.sweet_spot else "none"
            table.add_row(p.id, spot, f"{c.z:.1f}", ", ".join(c.words[:6]))
    return table
