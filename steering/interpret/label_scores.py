"""Label scores: detection and fuzzing trials on held-out windows of text.

Detection and fuzzing are delphi's (Paulo et al. 2024): balanced accuracy on texts that the label was not made from. The
control is detection with another feature's label, so that a judge that answers yes to everything gains nothing. The
judge is the caller's: the label's words, or a language model that is given the label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from steering.catalogue.feature import LabelScores
from steering.interpret.top_activations import BEFORE, LAST, TopActivations
from steering.interpret.word_labels import Ids, WordLabel

FEWEST = 5
"""Least number of windows of either kind; with fewer there is no trial."""
Said = Bool[np.ndarray, " asked"]


@dataclass(frozen=True, eq=False)
class DetectionTrial:
    """Windows on which a label is tried, in random order."""

    ids: Ids
    """Windows in which the feature fires, from all levels of activation alike, and as many in which it never does."""
    fires: Said
    marked: Ids
    """Windows in which it fires; one token of each is marked."""
    columns: Int[np.ndarray, " asked"]
    right: Said
    """Whether it fires on that token."""

    def by_words(self, label: WordLabel) -> tuple[Said, Said]:
        """Return the predictions of a word label: for the windows, and for the marked tokens."""
        return label.fires(self.ids), label.fires_at(self.marked, self.columns)

    def scores(
        self, fires: Said, right: Said, control: Said | None, *, specificity: float | None = None
    ) -> LabelScores:
        """Score predictions; `control` are another feature's label's predictions for the windows."""
        return LabelScores(
            detection=_balanced_accuracy(fires, self.fires),
            fuzzing=_balanced_accuracy(right, self.right) if len(self.right) else None,
            control=None if control is None else _balanced_accuracy(control, self.fires),
            specificity=specificity,
            n=len(self.fires),
        )


def detection_trial(held: TopActivations, row: int, *, most: int = 32) -> DetectionTrial | None:
    """Return one feature's trial on held-out texts; None if it fires too rarely there, or always."""
    random = np.random.default_rng(row)
    there = held.levels.keys[row] < LAST
    ids, a = (x[row][there].numpy() for x in (held.levels.windows.ids, held.levels.windows.activations))
    order = random.permutation(len(ids))[:most]
    ids, a = ids[order], a[order]
    quiet = (held.anywhere.filled & (held.anywhere.peaks[:, row] == 0)).nonzero()[:, 0].numpy()
    silent = held.anywhere.ids.numpy()[random.permutation(quiet)[: len(ids)]]
    if min(len(ids), len(silent)) < FEWEST:
        return None
    marked, columns, right = [], [], []
    for window, activation in zip(ids, a, strict=True):
        if len(wrong := np.flatnonzero((activation == 0) & (window >= 0))):
            marked += [window, window]
            columns += [BEFORE, int(random.choice(wrong))]
            right += [True, False]
    texts, fires = np.concatenate([ids, silent]), np.arange(len(ids) + len(silent)) < len(ids)
    one, other = random.permutation(len(texts)), random.permutation(len(marked))
    tokens = np.array(marked, dtype=ids.dtype).reshape(-1, ids.shape[1])
    return DetectionTrial(
        texts[one], fires[one], tokens[other], np.array(columns, dtype=int)[other], np.array(right, dtype=bool)[other]
    )


def mean_of(scores: Sequence[LabelScores]) -> dict[str, float]:
    """Return means over features of each score."""
    found = {}
    for name in ("detection", "fuzzing", "control", "specificity"):
        values = [v for s in scores if (v := getattr(s, name)) is not None]
        if values:
            found[name] = round(sum(values) / len(values), 4)
    return found


def _balanced_accuracy(predicted: Said, truth: Said) -> float:
    return round(float((predicted[truth].mean() + (~predicted[~truth]).mean()) / 2), 4)
