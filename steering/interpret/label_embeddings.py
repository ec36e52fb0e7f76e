"""Label search: how close a query is to each label, by the language model's own token embeddings.

A text is the mean of its words' embeddings, weighted by how rare a word is among the labels; the mean embedding and the
directions that all embeddings share are taken out first (Mu & Viswanath 2018, "All-but-the-top"). Words in common, by
their stems, count beside it. Nothing is run: a query costs one product with a matrix of labels.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

SHARED = 6
"""Principal directions of the embeddings that are taken out."""
SAMPLE = 8_000
"""Embeddings by which they are found."""
IN_COMMON = 0.6
"""Weight of the share of stems in common, beside a cosine."""
COMMON_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "at",
        "by",
        "for",
        "in",
        "is",
        "of",
        "on",
        "or",
        "that",
        "the",
        "to",
        "with",
        "word",
        "words",
        "name",
        "names",
    ]
)
ENDINGS = ("ness", "ing", "ies", "es", "s", "ed", "ful", "ly")
Encode = Callable[[str], list[int]]
"""Token ids of a string, without special tokens."""


class LabelEmbeddings:
    """Labels that can be compared with queries."""

    def __init__(self, embeddings: Float[Tensor, "vocab d_model"], encode: Encode, labels: Sequence[str]) -> None:
        """Take the input embeddings of a model and its tokenizer; empty labels have similarity −1 with everything."""
        self._embeddings, self._encode, self.labels = embeddings.float(), encode, labels
        self._count = Counter(word for label in labels for word in set(words_of(label)))
        self._stems = [frozenset(map(stem, words_of(label))) for label in labels]

    def for_labels(self, labels: Sequence[str]) -> "LabelEmbeddings":
        """Return the same for other labels; what was computed of the embeddings is shared."""
        found = LabelEmbeddings(self._embeddings, self._encode, labels)
        found._common = self._common
        return found

    def similarities(self, query: str) -> Float[Tensor, " labels"]:
        """Return a score for each label: a cosine, plus `IN_COMMON` times the share of stems in common."""
        wanted = frozenset(map(stem, words_of(query)))
        shared = [len(wanted & stems) / max(1, len(wanted | stems)) for stems in self._stems]
        scores = self.vectors @ self._vector(query) + IN_COMMON * torch.tensor(shared)
        return torch.where(torch.tensor([bool(s) for s in self._stems], dtype=torch.bool), scores, -1.0)

    @cached_property
    def vectors(self) -> Float[Tensor, "labels d_model"]:
        """The unit vector of each label; 0 for one without a word."""
        found = [self._vector(label) for label in self.labels]
        return torch.stack(found) if found else torch.zeros(0, self._embeddings.shape[1])

    def _vector(self, text: str) -> Float[Tensor, " d_model"]:
        found = torch.zeros(self._embeddings.shape[1])
        for word in words_of(text):
            rarity = math.log(1 + len(self.labels) / (1 + self._count[word]))
            found += rarity * self._word(word)
        return normalize(found, dim=0)

    def _word(self, word: str) -> Float[Tensor, " d_model"]:
        """The mean over a word's tokens; a word of many tokens is known less well, and counts less."""
        ids = self._encode(" " + word)
        if not ids:
            return torch.zeros(self._embeddings.shape[1])
        middle, shared = self._common
        x = self._embeddings[ids].mean(0) - middle
        return normalize(x - shared @ (shared.T @ x), dim=0) / math.sqrt(len(ids))

    @cached_property
    def _common(self) -> tuple[Float[Tensor, " d_model"], Float[Tensor, "d_model shared"]]:
        """The mean embedding, and the principal directions around it."""
        middle = self._embeddings.mean(0)
        step = max(1, len(self._embeddings) // SAMPLE)
        x = self._embeddings[::step] - middle
        _, _, right = torch.linalg.svd(x, full_matrices=False)
        return middle, right[:SHARED].T


def words_of(text: str) -> list[str]:
    """Return the words of a text that mean something; all of them if none does."""
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)?", text.lower())
    return [w for w in words if w not in COMMON_WORDS] or words


def stem(word: str) -> str:
    """Return a word without a usual English ending."""
    return next((word[: -len(e)] for e in ENDINGS if word.endswith(e) and len(word) - len(e) >= 3), word)
