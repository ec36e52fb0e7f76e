"""Drift log: one line per drift check, and the baseline of each revision."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steering.files import write_atomic

MOST = 2000
"""Number of checks kept: at one every ten minutes, two weeks."""


class DriftLog:
    """Drift checks of one bundle's revisions. One process writes, others may read."""

    def __init__(self, data_dir: Path, bundle: str) -> None:
        self.folder = data_dir / "trainer" / bundle

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a check; the oldest are removed, a few at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [*self._lines(), json.dumps(dict(row)) + "\n"]
        if len(lines) > MOST + MOST // 10:
            write_atomic(self._file, "".join(lines[-MOST:]))
        else:
            cut = len(lines) > 1 and not lines[-2].endswith("\n")
            with self._file.open("a") as file:
                file.write("\n" * cut + lines[-1])

    def rows(self, *, before: float | None = None) -> list[dict[str, Any]]:
        """The checks, oldest first; with `before`, those before that time. Lines truncated by a crash are skipped."""
        rows = filter(None, map(_row, self._lines()))
        return [r for r in rows if before is None or r["at"] < before]

    def first(self, revision: str, kind: str) -> dict[str, Any] | None:
        """The first check of a kind of text with a revision, feature activations included."""
        file = self._first(revision, kind)
        return json.loads(file.read_text()) if file.exists() else None

    def keep_first(self, revision: str, kind: str, look: Mapping[str, Any]) -> None:
        """Store it as the baseline for later checks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._first(revision, kind), json.dumps(dict(look)))

    @property
    def _file(self) -> Path:
        return self.folder / "drift.jsonl"

    def _first(self, revision: str, kind: str) -> Path:
        return self.folder / f"baseline-{revision}-{kind}.json"

    def _lines(self) -> list[str]:
        return self._file.read_text().splitlines(keepends=True) if self._file.exists() else []


def _row(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
