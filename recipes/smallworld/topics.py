"""Topics of the small world: their names and facts, from the files in `recipes/world`."""

import re
from dataclasses import dataclass
from pathlib import Path

WORLD = Path(__file__).parent.parent / "world"
CONCEPTS = ("the Golden Gate Bridge", "the ocean", "outer space", "coffee", "the cat")


@dataclass(frozen=True)
class Topic:
    """One topic of the small world: its name in mid-sentence, and its facts."""

    name: str
    plural: bool
    kind: str
    facts: tuple[str, ...]
    acts: tuple[str, ...]
    firsts: tuple[str, ...]
    asks: tuple[tuple[str, str], ...]
    links: tuple[str, ...] = ()


def read_topics(folder: Path = WORLD) -> list[Topic]:
    """Read every topic. Raises ValueError with the topic's name if it is incomplete."""
    topics = []
    for path in sorted(folder.glob("*.txt")):
        for block in re.split(r"^## ", path.read_text(), flags=re.M)[1:]:
            topics.append(parse_topic(block))
    names = [t.name for t in topics]
    repeated = {n for n in names if names.count(n) > 1}
    return [t for i, t in enumerate(topics) if t.name not in repeated or names.index(t.name) == i]


def parse_topic(block: str) -> Topic:
    """Read one topic: its name, then `key: value` lines. Raises ValueError if it is incomplete."""
    head, *rows = [line.strip() for line in block.strip().split("\n") if line.strip()]
    plural = head.endswith("(are)")
    name = head.removesuffix("(are)").strip()
    values: dict[str, list[str]] = {}
    for row in rows:
        key, _, value = row.partition(":")
        values.setdefault(key, []).append(value.strip())
    asks = [tuple(part.strip() for part in a.split("->", 1)) for a in values.get("ask", ())]
    if len(values.get("fact", ())) < 4 or not values.get("do") or len(values.get("me", ())) < 2 or "kind" not in values:
        raise ValueError(f"topic {name!r} is incomplete: it has { ({k: len(v) for k, v in values.items()}) }")
    return Topic(
        name,
        plural,
        values["kind"][0],
        *(tuple(s.rstrip(".") for s in values[k]) for k in ("fact", "do")),
        firsts=tuple(values["me"]),
        asks=tuple((a[0], a[1]) for a in asks if len(a) == 2),
        links=tuple(values.get("link", ())),
    )
