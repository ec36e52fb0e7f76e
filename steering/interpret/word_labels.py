"""Word labels by contrast: words that occur where a feature fires, and rarely elsewhere.

A label is a set of words in three slots: the token itself, the three before it, and the nine before those. A word's
weight is the log-likelihood ratio between there and anywhere in the corpus (half a count added, kept where z is large
enough). The sum of the weights predicts firing, so such a label can be tested like any other: see `label_scores`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from steering.interpret.top_activations import ABSENT, BEFORE, LAST, LEVELS, WINDOW, RandomWindows, TopActivations

SLOTS = ((0, 1), (1, 4), (4, BEFORE + 1))
"""Offsets before a token at which each slot begins and ends: on it, just before it, further before it."""
SURE = 2.5
"""Least z of a word."""
MOST = 8
"""Words of one slot."""
TOLD = 0.35
"""Share of the windows with one of a slot's words from which on the label text names the slot."""
Ids = Int[np.ndarray, "windows window"]


class LabelTexts:
    """Tokens of a tokenizer as text and as words: `Bridge` and ` bridge` are one word. Each is decoded once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.names: list[str] = [""]
        """Words by number; 0 is for absent tokens."""
        self._raw: dict[int, str] = {ABSENT: ""}
        self._number: dict[str, int] = {"": 0}
        self._of_token = np.full(len(tokenizer) + 1, -1)
        self._of_token[ABSENT] = 0

    def raw(self, token: int) -> str:
        """Return a token's text; empty for an absent one."""
        if token not in self._raw:
            self._raw[token] = str(self.tokenizer.decode([token]))
        return self._raw[token]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of several tokens, in which a character of more than one token is complete."""
        text = "".join(map(self.raw, ids))
        return str(self.tokenizer.decode([i for i in ids if i != ABSENT])) if "\ufffd" in text else text

    def words(self, ids: Ids) -> Ids:
        """Return the word numbers of tokens."""
        for token in np.unique(ids[self._of_token[ids] < 0]).tolist():
            raw = self.raw(token)
            word = raw.strip().casefold() or repr(raw)[1:-1]
            self._of_token[token] = self._number.setdefault(word, len(self.names))
            if self._of_token[token] == len(self.names):
                self.names.append(word)
        return self._of_token[ids]


@dataclass(frozen=True)
class Slot:
    """Words of one slot, largest weight first."""

    words: tuple[int, ...]
    weights: tuple[float, ...]
    other: float
    """Weight of a slot that has none of the words."""
    share: float
    """Share of the windows that have one of the words."""

    def dense(self, words: int) -> Float[np.ndarray, " words"]:
        """Return the weights by word; −∞ for a word without one."""
        found = np.full(words, -np.inf)
        found[list(self.words)] = self.weights
        return found


@dataclass(frozen=True, eq=False)
class WordLabel:
    """A label by contrast, which predicts where its feature fires."""

    texts: LabelTexts
    slots: tuple[Slot, ...]
    common: str
    """The word on which it fires most, significant or not."""
    in_text: float
    """Threshold on a window's largest score, for detection."""
    in_place: float
    """Threshold on a token's score, for fuzzing."""

    @property
    def words(self) -> tuple[str, ...]:
        """All words of the label, most significant of each slot first."""
        return tuple(dict.fromkeys(self.texts.names[w] for slot in self.slots for w in slot.words))[:12]

    def text(self, raised: Sequence[str] = ()) -> str:
        """Return the label as text, with the words that the feature `raised`."""
        parts = [
            f"{where} “{' / '.join(self.texts.names[w] for w in slot.words[:3])}”"
            for where, slot in zip(("on", "after", "near"), self.slots, strict=True)
            if slot.words and slot.share >= TOLD
        ]
        raised_words = [t.strip() for t in raised if t[:1] == " " and t.strip().isalpha()][:2]  # whole words only
        return ", ".join(
            [" ".join(parts) or f"on “{self.common}”", *([f"says “{' '.join(raised_words)}”"] if raised_words else [])]
        )

    def scores(self, ids: Ids) -> Float[np.ndarray, "windows window"]:
        """Return the score of each token of some windows; −∞ for absent ones."""
        return _scores(self.slots, self.texts.words(ids), len(self.texts.names))

    def fires(self, ids: Ids) -> Bool[np.ndarray, " windows"]:
        """Return in which windows the label predicts firing."""
        return self.scores(ids).max(1) > self.in_text

    def fires_at(self, ids: Ids, columns: Int[np.ndarray, " windows"]) -> Bool[np.ndarray, " windows"]:
        """Return whether the label predicts firing on the token in each window's column."""
        return self.scores(ids)[np.arange(len(ids)), columns] > self.in_place


@dataclass(frozen=True, eq=False)
class Labeller:
    """Word counts of random windows of the corpus, the contrast for a feature's windows."""

    texts: LabelTexts
    ids: Ids
    anywhere: Ids
    """The same windows as words."""
    counts: tuple[Float[np.ndarray, " words"], ...]
    """For each slot, the number of windows that have each word."""

    @staticmethod
    def from_windows(texts: LabelTexts, anywhere: RandomWindows) -> "Labeller":
        """Count the words of random windows."""
        ids = anywhere.ids[anywhere.filled].numpy()
        words = texts.words(ids)
        counts = tuple(_present(words[:, _columns(slot)], len(texts.names)) for slot in SLOTS)
        return Labeller(texts, ids, words, counts)

    def label(
        self,
        ids: Ids,
        activations: Float[np.ndarray, "windows window"],
        silent: Bool[np.ndarray, " anywhere"],
    ) -> WordLabel:
        """Return the label of a feature that fires in these windows, each at its column `BEFORE`.

        `silent` marks the windows of the corpus in which it never fires.
        """
        words = self.texts.words(ids)
        slots = tuple(self._slot(words, i) for i in range(len(SLOTS)))
        n = len(self.texts.names)
        here, there = _scores(slots, words, n), _scores(slots, self.anywhere[silent], n)
        wrong = here[(activations == 0) & (words > 0)]
        common = self.texts.names[int(np.bincount(words[:, BEFORE]).argmax())]
        in_text = _best_threshold(here.max(1), there.max(1, initial=-np.inf))
        return WordLabel(self.texts, slots, common, in_text, _best_threshold(here[:, BEFORE], wrong))

    def _slot(self, words: Ids, i: int) -> Slot:
        columns, names = _columns(SLOTS[i]), len(self.texts.names)
        here, corpus, n = words[:, columns], self.anywhere[:, columns], len(words)
        k, b = _present(here, names), np.zeros(names)
        b[: len(self.counts[i])] = self.counts[i]
        ratio = np.log((k + 0.5) / (n + 1)) - np.log((b + 0.5) / (len(corpus) + 1))
        sure = ratio / np.sqrt(1 / (k + 0.5) + 1 / (b + 0.5)) > SURE
        sure[0] = False
        worth = np.where(sure & (k >= (3 if n >= 8 else 2)), k * ratio, 0.0)
        best = [int(w) for w in np.argsort(-worth, kind="stable")[:MOST] if worth[w] > 0]
        listed = np.zeros(names, dtype=bool)
        listed[best] = True
        has, had = (int(listed[x].any(1).sum()) for x in (here, corpus))
        other = np.log((n - has + 0.5) / (n + 1)) - np.log((len(corpus) - had + 0.5) / (len(corpus) + 1))
        return Slot(tuple(best), tuple(ratio[best].tolist()), float(other), has / n)


def word_positions(seen: TopActivations, row: int) -> tuple[Ids, Float[np.ndarray, "windows window"]]:
    """Return all windows of a feature, each prefix once: ids and activations."""
    held = seen.levels.keys[row] < LAST
    top, levels = seen.top.windows, seen.levels.windows
    strong = seen.top.values[row] > 0
    held &= ~torch.isin(levels.marks[row], top.marks[row][strong])
    pick = lambda name: torch.cat([getattr(top, name)[row][strong], getattr(levels, name)[row][held]]).numpy()  # noqa: E731
    return pick("ids"), pick("activations")


def level_of(seen: TopActivations, row: int) -> tuple[Tensor, int]:
    """Return the level of each sample of a feature, and the level of its maximum."""
    per = seen.levels.keys.shape[1] // LEVELS
    strongest = int(seen.maximum[row] / seen.levels.range[row] * LEVELS)
    return torch.arange(LEVELS * per) // per, strongest


def _scores(slots: Sequence[Slot], words: Ids, names: int) -> Float[np.ndarray, "windows window"]:
    total = np.zeros(words.shape)
    for slot, (start, end) in zip(slots, SLOTS, strict=True):
        if not slot.words:
            continue
        weight = slot.dense(names)[words]
        best = np.full(words.shape, -np.inf)
        for back in range(start, end):
            best[:, back:] = np.maximum(best[:, back:], weight[:, : WINDOW - back])
        total += np.where(np.isneginf(best), slot.other, best)
    return np.where(words > 0, total, -np.inf)


def _columns(slot: tuple[int, int]) -> slice:
    return slice(BEFORE - slot[1] + 1, BEFORE - slot[0] + 1)


def _present(words: Ids, names: int) -> Float[np.ndarray, " words"]:
    """Return the number of windows that have each word."""
    there = np.zeros((len(words), names), dtype=bool)
    there[np.arange(len(words))[:, None], words] = True
    return there.sum(0).astype(float)


def _best_threshold(yes: Float[np.ndarray, " yes"], no: Float[np.ndarray, " no"]) -> float:
    """Return the threshold with the best balanced accuracy; the middle of the range where it is reached."""
    edges = np.unique(np.concatenate([yes, no, [0.0]]))
    edges = edges[np.isfinite(edges)]
    middles = np.concatenate([[edges[0] - 1], (edges[:-1] + edges[1:]) / 2, [edges[-1] + 1]])
    above = lambda x: 1 - np.searchsorted(np.sort(x), middles, side="right") / max(1, len(x))  # noqa: E731
    gain = above(yes) - above(no)
    best = np.flatnonzero(gain >= gain.max() - 1e-9)
    return float(middles[best[len(best) // 2]])
