"""The forecast before anything is sent against readers: `python -m bench.forecast`.

Mixes of one to four calibrated features at loads from none to `LOADS[-1]`, each on a question about something else.
`--sheet FOLDER` generates the replies through the real engine and writes them in random order for readers who know
neither mix nor load (`bench.blind`); without it, what readers said is compared with the forecast: one half of
`forecast_readings.jsonl` gives the two lines of `bundle.json`, the other half is scored.
"""

import argparse
import asyncio
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.badge import balanced, rank_correlation
from bench.blind import Reading, Reply, read_readings, write_sheet
from bench.share import Share
from bench.showpieces import BUNDLE, NATURAL
from server.engines.base import Generation
from server.engines.transformers.engine import TransformersEngine
from steering.bakeoff.personas import PROMPTS
from steering.catalogue.bundle import Bundle
from steering.catalogue.composition import compose
from steering.catalogue.feature import Feature
from steering.catalogue.resolve import Catalogue
from steering.spec import Intervention, SteeringSpec

READINGS = Path(__file__).with_name("forecast_readings.jsonl")
LOADS = (0.0, 0.3, 0.6, 0.8, 1.0, 1.15, 1.3, 1.6, 1.9, 2.2, 2.6, 3.2)
MIXES = 40
"""Replies at each load."""
LARGEST = 4
"""Features of a mix, at most."""
GRADES = {"F": 0, "S": 1, "B": 2}
BROKEN, RANK, SAFE = 0.85, 0.7, 0.9
"""Goals: balanced accuracy of broken or not, rank correlation of load and grade, and how often "safe" is right."""
console = Console(width=110)


@dataclass(frozen=True)
class Lines:
    """Loads above which the forecast says strained, and broken."""

    strained: float
    broken: float

    def verdict(self, load: float) -> int:
        """0 fluent, 1 strained, 2 broken."""
        return 2 if load > self.broken else 1 if load > self.strained else 0


@dataclass(frozen=True)
class Scores:
    """How a forecast agrees with readers."""

    broken: float
    rank: float
    safe_not_broken: Share
    safe_fluent: Share
    unsteered_fluent: Share


def main() -> None:
    """Print the comparison, or write a sheet."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path(BUNDLE))
    p.add_argument("--sheet", type=Path, help="folder for a sheet of replies and its key")
    args = p.parse_args()
    bundle = Bundle.open(args.bundle)
    if args.sheet:
        write_sheet(args.sheet, asyncio.run(replies(bundle)), {"any": "any subject"})
        return
    if not READINGS.exists():
        raise SystemExit("nobody has read them yet: write a sheet with --sheet FOLDER")
    readings = read_readings(READINGS)
    fitting, scoring = readings[::2], readings[1::2]
    shipped = Lines(bundle.info.strained_load, bundle.info.broken_load)
    console.print(f"{len(readings)} replies; lines fitted to one half {fitted(fitting)}, shipped {shipped}")
    console.print(scores_table(score(scoring, shipped)), by_load(readings))


def score(readings: Sequence[Reading], lines: Lines) -> Scores:
    """Compare forecasts with grades."""
    safe = [r for r in readings if r.strength and not lines.verdict(r.strength)]
    grades = [float(GRADES[r.grade]) for r in readings]
    return Scores(
        balanced([r.grade == "B" for r in readings], [lines.verdict(r.strength) == 2 for r in readings]),
        rank_correlation([r.strength for r in readings], grades),
        Share.of_all(r.grade != "B" for r in safe),
        Share.of_all(r.grade == "F" for r in safe),
        Share.of_all(r.grade == "F" for r in readings if not r.strength),
    )


def fitted(readings: Sequence[Reading]) -> Lines:
    """The lines of the best balanced accuracy: broken or not, and fluent or not."""
    ends = sorted({r.strength for r in readings})
    between = [(a + b) / 2 for a, b in itertools.pairwise(ends)]

    def best(grades: str) -> float:
        said = [r.grade in grades for r in readings]
        return round(max(between, key=lambda x: balanced(said, [r.strength > x for r in readings])), 2)

    return Lines(best("SB"), best("B"))


def scores_table(found: Scores) -> Table:
    """Figures beside their goals."""
    table = Table("half that the lines were not fitted to", "figure", "goal")
    table.add_row("broken or not, balanced accuracy", f"{found.broken:.3f}", f"≥ {BROKEN}")
    table.add_row("rank correlation of load and grade", f"{found.rank:.3f}", f"≥ {RANK}")
    table.add_row('"safe", and not broken', str(found.safe_not_broken), f"≥ {SAFE:.0%}")
    table.add_row('"safe", and fluent', str(found.safe_fluent), "")
    table.add_row("unsteered, and fluent", str(found.unsteered_fluent), "")
    return table


def by_load(readings: Sequence[Reading]) -> Table:
    """What readers said at each load."""
    table = Table("load", "replies", "fluent", "strained", "broken")
    for load in LOADS:
        mine = [r.grade for r in readings if abs(r.strength - load) < 0.02]
        table.add_row(f"{load:g}", str(len(mine)), *(f"{mine.count(g) / max(1, len(mine)):.0%}" for g in GRADES))
    return table


def mixes(bundle: Bundle, seed: int = 0) -> Iterator[SteeringSpec]:
    """`MIXES` specs at each load, of as many features each as the number of the mix says."""
    rng = random.Random(seed)
    ready = [f for f in bundle.features if f.calibration and f.calibration.works and f.sweet_spot]
    for load in LOADS:
        for n in range(MIXES):
            yield mix(bundle, rng.sample(ready, 1 + n % LARGEST), load, rng)


def mix(bundle: Bundle, features: Sequence[Feature], load: float, rng: random.Random) -> SteeringSpec:
    """A spec of the features whose load is the one that is asked for."""
    shares = [rng.uniform(0.3, 1.0) for _ in features]

    def spec(scale: float) -> SteeringSpec:
        items = [Intervention(id=f.id, strength=round(s * scale, 4)) for f, s in zip(features, shares, strict=True)]
        return SteeringSpec(
            features=tuple(items) if scale else (), scope=bundle.info.scope, skip_special=bundle.info.skip_special
        )

    at_one = compose(Catalogue([bundle]).resolve(spec(1.0)), bundle).load
    return spec(load / at_one)


async def replies(bundle: Bundle) -> list[Reply]:
    """One reply to each mix, the questions in turns."""
    engine = TransformersEngine.load(
        bundle.model_path, hooks=[bundle.info.hook], device="cpu", dtype="bfloat16", queue=1000
    )
    catalogue, prompts = Catalogue([bundle]), itertools.cycle(PROMPTS)

    async def one(seed: int, spec: SteeringSpec, prompt: str) -> Reply:
        resolved = catalogue.resolve(spec)
        chat = engine.encode_chat([{"role": "user", "content": prompt}])
        sampling = replace(NATURAL, seed=seed)
        request = Generation(
            chat.ids, chat.steered(spec.where), True, resolved.edits, spec.fingerprint, sampling=sampling
        )
        text = "".join([piece.text async for piece in engine.generate(request)])
        arm = " + ".join(f"{i.id}:{i.strength:g}" for i in spec.features) or "unsteered"
        return Reply(arm, compose(resolved, bundle).load, prompt, text)

    found = await asyncio.gather(*(one(seed, spec, next(prompts)) for seed, spec in enumerate(mixes(bundle))))
    await engine.close()
    return found


if __name__ == "__main__":
    main()
