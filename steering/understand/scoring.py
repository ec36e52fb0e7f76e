"""How good a label is: does it tell which texts a feature fires in, and on which token? Knows windows and judges; no models.

Detection and fuzzing are delphi's (Paulo et al. 2024): balanced accuracy on texts that the label was not made from. The
control is detection with another feature's label, so a judge that says yes to everything gains nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Int

from steering.catalogue import LabelScores
from steering.understand.examples import BEFORE, LAST, Seen
from steering.understand.label import Ids

FEWEST = 5
"""Windows of either kind; with fewer nothing is said."""


class Judge(Protocol):
    """Whoever predicts by one label: a contrast's words, or a language model that was told it."""

    def fires(self, ids: Ids) -> Bool[np.ndarray, " windows"]:
        """Which windows it fires in."""
        ...

    def right(self, ids: Ids, columns: Int[np.ndarray, " windows"]) -> Bool[np.ndarray, " windows"]:
        """Whether it fires on the token in each window's column."""
        ...


@dataclass(frozen=True, eq=False)
class Trial:
    """What a label is tried on."""

    firing: Ids
    """From all levels of activation, as many of each."""
    silent: Ids
    marked: Ids
    columns: Int[np.ndarray, " marked"]
    truth: Bool[np.ndarray, " marked"]


def trial(held: Seen, row: int, *, most: int = 32) -> Trial | None:
    """The trial of one feature, from a pass over held-out texts; None if it fires too seldom there, or always."""
    there = held.levels.keys[row] < LAST
    ids, a = (x[row][there].numpy() for x in (held.levels.windows.ids, held.levels.windows.activations))
    quiet = held.anywhere.filled & (held.anywhere.peaks[:, row] == 0)
    silent = np.roll(held.anywhere.ids[quiet].numpy(), -row, axis=0)[: min(most, len(ids))]
    ids, a = ids[:most], a[:most]
    if min(len(ids), len(silent)) < FEWEST:
        return None
    random = np.random.default_rng(row)
    marked, columns, truth = [], [], []
    for window, activation in zip(ids, a, strict=True):
        if len(wrong := np.flatnonzero((activation == 0) & (window >= 0))):
            marked += [window, window]
            columns += [BEFORE, int(random.choice(wrong))]
            truth += [True, False]
    empty = np.empty((0, ids.shape[1]), dtype=ids.dtype)
    return Trial(
        ids, silent, np.stack(marked) if marked else empty, np.array(columns, dtype=int), np.array(truth, dtype=bool)
    )


def tried(judge: Judge, other: Judge | None, on: Trial) -> LabelScores:
    """Score one label; `other` judges by the label of another feature."""
    return LabelScores(
        detection=_detection(judge, on),
        fuzzing=_balanced(judge.right(on.marked, on.columns), on.truth) if len(on.marked) else None,
        control=_detection(other, on) if other else None,
        n=len(on.firing) + len(on.silent),
    )


def mean_of(scores: Sequence[LabelScores]) -> dict[str, float]:
    """Means over features of what was scored."""
    found = {}
    for name in ("detection", "fuzzing", "control", "specificity"):
        values = [v for s in scores if (v := getattr(s, name)) is not None]
        if values:
            found[name] = round(sum(values) / len(values), 4)
    return found


def _detection(judge: Judge, on: Trial) -> float:
    said = np.concatenate([judge.fires(on.firing), judge.fires(on.silent)])
    return _balanced(said, np.arange(len(said)) < len(on.firing))


def _balanced(said: Bool[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> float:
    return round(float((said[truth].mean() + (~said[~truth]).mean()) / 2), 4)
