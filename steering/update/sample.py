"""Training texts and held-out texts of an SAE update, with their activations at the hook point."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from steering.model.activations import ActivationStream, activations, padded_batches
from steering.model.token_store import TokenStore
from steering.train.weights import Rows

LONGEST = 512
MEASURED = 30_000
"""Held-out rows of each kind."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Texts of one kind, for training and held out."""

    learn: TokenStore
    held: TokenStore
    rows: Rows
    """Activations of the texts held out."""


class StreamReader:
    """Activations of a model at the hook point."""

    def __init__(self, model: PreTrainedModel, hook: str, skip: Collection[int]) -> None:
        self.model, self.hook, self.skip = model, hook, skip

    def sample(self, tokens: TokenStore) -> Sample:
        """Hold every tenth text out, and read it. Raises ValueError for too little text."""
        learn, held = _split(tokens)
        return Sample(learn, held, self.rows(held, MEASURED))

    def rows(self, tokens: TokenStore, most: int) -> Rows:
        """Return at most `most` rows of the texts. Raises ValueError for less than a thousand."""
        parts, n = [], 0
        batches = padded_batches(tokens, batch=16, longest=LONGEST, pad=0)
        for part in activations(self.model, batches, self.hook, skip=self.skip):
            parts.append(part)
            n += len(part)
            if n >= most:
                break
        if n < 1000:
            raise ValueError(f"too little text: {n} tokens are held out, and 1000 are needed to judge an update")
        return torch.cat(parts)[:most]

    def stream(
        self, tokens: TokenStore, position: tuple[int, ...], *, rows: int, buffer: int, seed: int
    ) -> ActivationStream:
        """Return shuffled rows without an end, from a position on."""
        return ActivationStream(
            self.model,
            tokens,
            self.hook,
            rows=rows,
            buffer=buffer,
            skip=self.skip,
            longest=LONGEST,
            passes=1000,  # small sets are repeated; training ends by the number of steps
            seed=seed,
            position=(position[0], position[1]),
        )


def _split(tokens: TokenStore) -> tuple[TokenStore, TokenStore]:
    """Return nine tenths of the texts for training, and every tenth held out."""
    return (
        tokens.subset([i for i in range(len(tokens)) if i % 10]),
        tokens.subset(range(0, len(tokens), 10)),
    )
