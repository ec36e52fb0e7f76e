"""Personas against blind readers: `python -m bench.presets`.

Prints what readers said of twenty replies of each persona at full and at half strength, and of unsteered ones, on questions
about something else (`persona_readings.jsonl`). They knew neither persona nor strength: of each reply they said how it
reads, which persona it shows if any, and whether it answers the question. `--sheet FOLDER` generates replies through the
real engine and writes them for other readers (`bench.blind`); `--card FILE` writes the readings with replies as Markdown.
"""

import argparse
import asyncio
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.blind import Reading, Reply, read_readings, write_sheet
from bench.share import Share
from bench.showpieces import BUNDLE, PLAIN, replies
from server.engines.transformers.engine import TransformersEngine
from steering.bakeoff.personas import PROMPTS
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.spec import Preset, SteeringSpec

READINGS = Path(__file__).with_name("persona_readings.jsonl")
FULL, HALF = 1.0, 0.5
IN_CHARACTER, ON_TOPIC, COSTS = 0.75, 0.70, 0.10
"""Goals: in character at full strength, on topic at half, and at most so many fewer fluent replies than unsteered."""
PRINTED = (10, 40)
"""Replies on a card: of each persona, and unsteered."""
GRADES = {"F": "fluent", "S": "strained", "B": "broken"}
console = Console(width=120)


@dataclass(frozen=True)
class Row:
    """What readers said of one persona."""

    persona: str
    fluent: Share
    in_character: Share
    half_fluent: Share
    half_in_character: Share
    half_on_topic: Share

    def passes(self, plain: Share) -> bool:
        """Whether it may be shipped, beside the unsteered model's share of fluent replies."""
        price = plain.n / plain.of - self.fluent.n / self.fluent.of
        shown, topic = self.in_character, self.half_on_topic
        return price <= COSTS and shown.n >= IN_CHARACTER * shown.of and topic.n >= ON_TOPIC * topic.of


def main() -> None:
    """Print the readings, or write a sheet."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path(BUNDLE))
    p.add_argument("--sheet", type=Path, help="folder for a sheet of replies and its key")
    p.add_argument("--only", nargs="*", default=[], help="personas to run; all if none is named")
    p.add_argument("--card", type=Path, help="file for the table and the replies, as Markdown")
    args = p.parse_args()
    if args.sheet:
        bundle = Bundle.open(args.bundle)
        wanted = [p for p in bundle.presets if not args.only or p.id in args.only]
        found = asyncio.run(persona_replies(bundle, wanted))
        write_sheet(args.sheet, found, {p.id: f"{p.name}. {p.description}" for p in wanted})
        return
    if not READINGS.exists():
        raise SystemExit("nobody has read them yet: write a sheet with --sheet FOLDER")
    readings = read_readings(READINGS)
    rows, plain = summarize(readings)
    if args.card:
        args.card.write_text(card(Bundle.open(args.bundle), readings))
    console.print(table(rows, plain))
    raise SystemExit(not all(r.passes(plain) for r in rows))


def summarize(readings: list[Reading]) -> tuple[list[Row], Share]:
    """Rows by persona, and the share of unsteered replies that are fluent."""
    rows = []
    for persona in sorted({r.arm for r in readings} - {PLAIN}):
        full, half = ([r for r in readings if (r.arm, r.strength) == (persona, s)] for s in (FULL, HALF))
        shows = [Share.of_all(r.shows == persona for r in some) for some in (full, half)]
        fluent = [Share.of_all(r.grade == "F" for r in some) for some in (full, half)]
        topic = Share.of_all(r.answers for r in half)
        rows.append(Row(persona, fluent[0], shows[0], fluent[1], shows[1], topic))
    return rows, Share.of_all(r.grade == "F" for r in readings if r.arm == PLAIN)


def table(rows: list[Row], plain: Share) -> Table:
    """The rows as a table."""
    found = Table("persona", "fluent", "in character", "half: fluent", "half: in character", "half: on topic", "goals")
    for r in rows:
        cells = (r.fluent, r.in_character, r.half_fluent, r.half_in_character, r.half_on_topic)
        found.add_row(r.persona, *(f"{s.n}/{s.of}" for s in cells), "met" if r.passes(plain) else "missed")
    found.add_row(PLAIN, str(plain))
    return found


def card(bundle: Bundle, readings: list[Reading]) -> str:
    """What readers said of the bundle's personas, and `PRINTED` replies of each as they came, as Markdown."""
    rows, plain = summarize(readings)
    by = {r.persona: r for r in rows}
    lines = [
        "| persona | made of | fluent | in character | at half: in character | at half: on topic |",
        "|---|---|---|---|---|---|",
    ]
    for p in bundle.presets:
        r = by[p.id]
        cells = (r.fluent, r.in_character, r.half_in_character, r.half_on_topic)
        lines.append(f"| {p.name} | {_made_of(p, bundle)} | " + " | ".join(f"{c.n} of {c.of}" for c in cells) + " |")
    lines.append(f"| unsteered | | {plain.n} of {plain.of} | | | |")
    for name, arm in [("Unsteered", PLAIN), *((p.name, p.id) for p in bundle.presets)]:
        mine = [r for r in readings if r.arm == arm and r.strength in (0.0, FULL)]
        lines += ["", f"### {name}", ""]
        for r in mine[: PRINTED[arm == PLAIN]]:
            lines.append(f"- *{r.question}* ({GRADES[r.grade]}) {' '.join(r.text.split())}")
    return "\n".join(lines) + "\n"


def _made_of(preset: Preset, bundle: Bundle) -> str:
    labels = {f.id: f.label for f in bundle.features}
    return ", ".join(
        labels.get(i.id, "difference of means of texts made of written lines") for i in preset.steering.features
    )


async def persona_replies(bundle: Bundle, presets: list[Preset]) -> list[Reply]:
    """Replies of each persona at full and half strength, and twice as many unsteered ones."""
    engine = TransformersEngine.load(bundle.model_path, hooks=[bundle.info.hook], device="cpu", dtype="bfloat16")
    catalogue, found = Catalogue([bundle]), list[Reply]()
    arms = [(p.id, scale, p.steering.model_copy(update={"scale": scale}), p) for p in presets for scale in (FULL, HALF)]
    arms += [(PLAIN, 0.0, SteeringSpec(), None)] * 2
    for seed, (arm, strength, spec, preset) in enumerate(arms):
        pins = preset.pins if preset else {}
        texts = await replies(engine, catalogue, spec, pins=pins, first_seed=1000 * seed)
        found += [Reply(arm, strength, q, text) for q, text in zip(PROMPTS, texts, strict=True)]
    await engine.close()
    return found


if __name__ == "__main__":
    main()
