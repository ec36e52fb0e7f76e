"""Ten sliders that anybody can see: `python -m bench.showpieces`.

Each is one feature of the SAE at a dose of at most 1, on twenty questions about something else. `--sheet FOLDER` generates
the replies through the real engine and writes them in random order, with as many unsteered ones, for a reader who knows
no arm (`bench.blind`); without it, the table of what readers said (`showpiece_readings.jsonl`) is printed.
"""

import argparse
import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.blind import Reading, Reply, read_readings, write_sheet
from bench.share import Share
from server.engines.base import Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from steering.bakeoff.personas import PROMPTS
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.spec import FeatureSnapshot, Intervention, SteeringSpec

READINGS = Path(__file__).with_name("showpiece_readings.jsonl")
BUNDLE = "sae_weights/smollm2"
PLAIN = "unsteered"
SEEN, UNSTEERED = 0.60, 0.03
"""Goals: share of steered replies in which a reader sees it, at least, and of unsteered ones, at most."""
NATURAL = Sampling(max_tokens=80, temperature=0.4, top_p=0.9, repetition_penalty=1.1)
"""As people chat with this model."""
console = Console(width=110)


@dataclass(frozen=True)
class Showpiece:
    """A feature, the dose, and what a reader is told that a reply may show."""

    name: str
    feature: int
    dose: float
    like: str


SHOWPIECES = (
    Showpiece("space", 1684, 1.0, "talks of stars, planets, space or the universe"),
    Showpiece("religion", 819, 1.0, "talks of God, faith, prayer, the church or holy things"),
    Showpiece("magic", 5397, 1.0, "talks of magic, spells, gods or monsters"),
    Showpiece("music", 6150, 1.0, "talks of music, songs or instruments"),
    Showpiece("cooking", 1873, 1.0, "talks of cooking, recipes, ingredients or dishes"),
    Showpiece("law", 4629, 1.0, "talks of law, courts, rights or legal cases"),
    Showpiece("sport", 5093, 1.0, "talks of sports, games, teams or players"),
    Showpiece("war", 3652, 1.0, "talks of war, soldiers, armies or the military"),
    Showpiece("sea", 5349, 1.0, "talks of the sea, ships, boats or sailing"),
    Showpiece("films", 7231, 1.0, "talks of films, scenes, actors or directors"),
)


def main() -> None:
    """Print the readings, or write a sheet."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path(BUNDLE))
    p.add_argument("--sheet", type=Path, help="folder for a sheet of replies and its key")
    args = p.parse_args()
    if args.sheet:
        found = asyncio.run(showpiece_replies(Bundle.open(args.bundle)))
        write_sheet(args.sheet, found, {s.name: s.like for s in SHOWPIECES})
        return
    if not READINGS.exists():
        raise SystemExit("nobody has read them yet: write a sheet with --sheet FOLDER")
    console.print(table(read_readings(READINGS)))


def table(readings: list[Reading]) -> Table:
    """For each slider in how many replies readers saw it, steered and not, and how the replies read."""
    found = Table("slider", "dose", "seen", "seen unsteered", "fluent")
    plain = [r for r in readings if r.arm == PLAIN]
    for s in SHOWPIECES:
        mine = [r for r in readings if r.arm == s.name]
        seen, before = (Share.of_all(r.shows == s.name for r in some) for some in (mine, plain))
        fluent = Share.of_all(r.grade == "F" for r in mine)
        found.add_row(s.name, f"{s.dose:g}", str(seen), str(before), str(fluent))
    found.add_row(PLAIN, "0", "", "", str(Share.of_all(r.grade == "F" for r in plain)))
    return found


async def showpiece_replies(bundle: Bundle) -> list[Reply]:
    """Replies of each slider to all questions, and twice as many unsteered ones."""
    engine = TransformersEngine.load(bundle.model_path, hooks=[bundle.info.hook], device="cpu", dtype="bfloat16")
    catalogue = Catalogue([bundle])
    arms = [
        (s.name, s.dose, (Intervention(id=f"{bundle.info.name}/{s.feature}", strength=s.dose),)) for s in SHOWPIECES
    ]
    found: list[Reply] = []
    for seed, (arm, dose, features) in enumerate([*arms, (PLAIN, 0.0, ()), (PLAIN, 0.0, ())]):
        spec = SteeringSpec(features=features, scope=bundle.info.scope, skip_special=bundle.info.skip_special)
        texts = await replies(engine, catalogue, spec, first_seed=1000 * seed)
        found += [Reply(arm, dose, q, text) for q, text in zip(PROMPTS, texts, strict=True)]
    await engine.close()
    return found


async def replies(
    engine: TransformersEngine,
    catalogue: Catalogue,
    spec: SteeringSpec,
    *,
    pins: Mapping[str, FeatureSnapshot] | None = None,
    first_seed: int = 1000,
    sampling: Sampling = NATURAL,
) -> list[str]:
    """Answer all prompts."""
    resolved = catalogue.resolve(spec, pins or {})

    async def one(i: int, prompt: str) -> str:
        chat = engine.encode_chat([{"role": "user", "content": prompt}])
        drawn = replace(sampling, seed=first_seed + i)
        request = Generation(chat.ids, chat.steered(spec.where), True, resolved.edits, spec.fingerprint, sampling=drawn)
        return "".join([piece.text async for piece in engine.generate(request)])

    return list(await asyncio.gather(*(one(i, p) for i, p in enumerate(PROMPTS))))


if __name__ == "__main__":
    main()
