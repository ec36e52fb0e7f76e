"""What is compared: concepts fixed before anything is tuned. Knows words and prompts only."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["lexical", "stylistic", "abstract"]


@dataclass(frozen=True)
class Concept:
    """One concept: system prompts that ask for it, and how a reply that shows it is known."""

    name: str
    kind: Kind
    prompts: tuple[str, ...]
    words: str
    """A regular expression, matched without case at word borders."""

    def shows(self, reply: str) -> bool:
        """Whether a reply shows it."""
        return re.search(rf"\b(?:{self.words})", reply, re.I) is not None


def load(name: str) -> list[Concept]:
    """The concepts of a file: a path, or the name of one that is shipped (`harbor`, `general`)."""
    path = Path(name) if name.endswith(".json") else Path(__file__).parent / f"{name}.json"
    return [Concept(**{**row, "prompts": tuple(row["prompts"])}) for row in json.loads(path.read_text())]
