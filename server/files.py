"""Files that a reader finds whole: the old one or the new, never half of one. Knows nothing of what is in them."""

import os
from pathlib import Path


def write(file: Path, text: str) -> None:
    """Write a file in one go."""
    draft = file.with_name(f".{file.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, file)
