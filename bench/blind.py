"""Blind reading: replies in random order for a reader who knows no arm, and what readers said of them.

A sheet has a number, a question and a reply each, and the list of things that a reply may show. A reader answers a line a
reply: number, `F` fluent, `S` strained or `B` broken, what it shows (a name of the list, or `none`), and whether it
answers the question (`y` or `n`), with tabs between.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SHEET, KEY = "replies.txt", "key.jsonl"
NOTHING = "none"


@dataclass(frozen=True)
class Reply:
    """One reply, and the arm that a reader must not know."""

    arm: str
    strength: float
    question: str
    text: str


@dataclass(frozen=True)
class Reading:
    """A reply with a reader's judgement."""

    arm: str
    strength: float
    question: str
    text: str
    grade: str
    """`F`, `S` or `B`."""
    shows: str
    answers: bool


def write_sheet(folder: Path, replies: Sequence[Reply], choices: Mapping[str, str], seed: int = 0) -> None:
    """Write the sheet and its key; `choices` maps each name to what a reply that shows it is like."""
    folder.mkdir(parents=True, exist_ok=True)
    order = random.Random(seed).sample(range(len(replies)), len(replies))
    lines = ["What a reply may show:", *(f"  {name}: {like}" for name, like in choices.items()), f"  {NOTHING}", ""]
    for number, i in enumerate(order, 1):
        text = replies[i].text.strip().replace("\n", " ⏎ ")
        lines += [f"#{number}", f"Q: {replies[i].question}", f"A: {text}", ""]
    (folder / SHEET).write_text("\n".join(lines))
    keys = (json.dumps({"number": n, **asdict(replies[i])}, ensure_ascii=False) for n, i in enumerate(order, 1))
    (folder / KEY).write_text("\n".join(keys) + "\n")


def join(folder: Path, answers: Iterable[str]) -> list[Reading]:
    """Join a reader's lines with the key. Raises ValueError for a line that is not an answer, naming it."""
    key: dict[int, dict[str, Any]] = {}
    for line in (folder / KEY).read_text().splitlines():
        row = json.loads(line)
        key[row.pop("number")] = row
    found = []
    for line in answers:
        cells = [c.strip() for c in line.split("\t")]
        if len(cells) != 4 or not cells[0].isdigit() or cells[1] not in "FSB" or cells[3] not in "yn":
            raise ValueError(f"not an answer: {line!r}")
        found.append(Reading(**key[int(cells[0])], grade=cells[1], shows=cells[2], answers=cells[3] == "y"))
    return found


def write_readings(file: Path, readings: Iterable[Reading]) -> None:
    """Write readings, one JSON document a line."""
    file.write_text("".join(json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in readings))


def read_readings(file: Path) -> list[Reading]:
    """Read what `write_readings` wrote."""
    return [Reading(**json.loads(line)) for line in file.read_text().splitlines()]
