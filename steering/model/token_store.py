"""Token store: texts as token ids, in memory or memory-mapped from a file.

For training, only tokens are kept on disk: activations of width 2,304 would take a thousand times the space, and
computing them again is faster than reading them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt32

from steering.errors import SteeringError
from steering.files import atomic_draft

IDS, EDGES = "tokens.u32", "edges.npy"


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Texts, concatenated; text `i` is `ids[starts[i]:ends[i]]`."""

    ids: UInt32[np.ndarray, " tokens"]
    starts: Int64[np.ndarray, " texts"]
    ends: Int64[np.ndarray, " texts"]

    @staticmethod
    def gather(texts: Iterable[Sequence[int]]) -> "TokenStore":
        """Return a store in memory."""
        rows = [np.asarray(text, dtype=np.uint32) for text in texts]
        edges = _edges(map(len, rows))
        return TokenStore(np.concatenate([np.empty(0, np.uint32), *rows]), edges[:-1], edges[1:])

    @staticmethod
    def write(folder: Path, texts: Iterable[Sequence[int]], *, most: int | None = None) -> "TokenStore":
        """Write texts to `folder`, until there are `most` tokens; a folder whose write was interrupted counts as empty."""
        folder.mkdir(parents=True, exist_ok=True)
        lengths: list[int] = []
        with atomic_draft(folder / IDS, sync=True) as draft, draft.open("wb") as file:
            for text in texts:
                file.write(np.asarray(text, dtype=np.uint32).tobytes())
                lengths.append(len(text))
                if most is not None and file.tell() >= 4 * most:
                    break
        with atomic_draft(folder / EDGES, sync=True) as draft, draft.open("wb") as file:
            np.save(file, _edges(lengths))
        return TokenStore.open(folder)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether `folder` holds a complete token store."""
        return (folder / EDGES).exists()

    @staticmethod
    def open(folder: Path) -> "TokenStore":
        """Open `folder` memory-mapped. Raises SteeringError if its files do not match."""
        try:
            edges = np.load(folder / EDGES)
            ids = np.memmap(folder / IDS, np.uint32, "r") if edges[-1] else np.empty(0, np.uint32)
        except (OSError, ValueError, EOFError) as error:
            raise SteeringError(f"cannot read tokens from {str(folder)!r}: {error}; delete the folder") from error
        if len(ids) != edges[-1]:
            raise SteeringError(
                f"{str(folder / IDS)!r} holds {len(ids)} tokens, not the {edges[-1]} expected; delete the folder"
            )
        return TokenStore(ids, edges[:-1], edges[1:])

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> list[int]:
        return self.ids[self.starts[i] : self.ends[i]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[i] for i in range(len(self)))

    def subset(self, texts: Sequence[int]) -> "TokenStore":
        """Return a store of these texts, without a copy."""
        return TokenStore(self.ids, self.starts[list(texts)], self.ends[list(texts)])

    def lengths(self) -> Int64[np.ndarray, " texts"]:
        """Return the number of tokens of each text."""
        return self.ends - self.starts


def _edges(lengths: Iterable[int]) -> Int64[np.ndarray, " edges"]:
    return np.cumsum([0, *lengths], dtype=np.int64)
