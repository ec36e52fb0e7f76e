"""Concepts: subjects and tones that the SAE should have features for, from `concepts.toml`."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PERSONS = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")
"""How a fact writes what differs: `[third person|first person]`."""


@dataclass(frozen=True)
class Subject:
    """A thing that a persona may be about."""

    name: str
    asks: tuple[str, ...]
    facts: tuple[str, ...]
    weight: int = 1

    def third(self, fact: str, *, name: str | None = None) -> str:
        """A fact as a sentence about it, without the mark at its end."""
        return f"{name or self.name} " + PERSONS.sub(r"\1", fact)

    def first(self, fact: str) -> str:
        """The fact as it would say it of itself."""
        return "I " + PERSONS.sub(r"\2", fact)


@dataclass(frozen=True)
class Tone:
    """A way to speak."""

    name: str
    asks: tuple[str, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Concepts:
    """All of them."""

    subjects: tuple[Subject, ...]
    tones: tuple[Tone, ...]
    plain: tuple[str, ...]
    questions: tuple[str, ...]


@cache
def concepts() -> Concepts:
    """What `concepts.toml` says."""
    found = tomllib.loads(Path(__file__).with_name("concepts.toml").read_text())
    subjects = [
        Subject(name, tuple(s["asks"]), tuple(s["facts"]), s.get("weight", 1)) for name, s in found["subjects"].items()
    ]
    tones = [Tone(name, tuple(t["asks"]), tuple(t["lines"])) for name, t in found["tones"].items()]
    return Concepts(tuple(subjects), tuple(tones), tuple(found["plain"]["lines"]), tuple(found["questions"]["lines"]))


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
