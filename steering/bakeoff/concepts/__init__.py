"""Concepts of the bake-off, fixed before anything is tuned: system prompts and word patterns."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["lexical", "stylistic", "abstract"]


@dataclass(frozen=True)
class Concept:
    """One concept: system prompts that ask for it, and the pattern that detects it in a reply."""

    name: str
    kind: Kind
    prompts: tuple[str, ...]
    words: str
    """A regular expression, matched without case at word boundaries."""

    def shows(self, reply: str) -> bool:
        """Whether a reply shows it."""
        return re.search(rf"\b(?:{self.words})", reply, re.I) is not None


def load(name: str) -> list[Concept]:
    """Return the concepts of a file: a path, or the name of a shipped one (`smollm2`, `harbor`, `general`)."""
    path = Path(name) if name.endswith(".json") else Path(__file__).parent / f"{name}.json"
    return [Concept(**{**row, "prompts": tuple(row["prompts"])}) for row in json.loads(path.read_text())]
