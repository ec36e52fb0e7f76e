"""The verdict on replies against readers: `python -m bench.badge`.

`fluency_labels.jsonl.xz` has 640 replies of SmolLM2-135M-Instruct over pushes from none to 0.9 of the typical norm, along
features, tones and random directions, in random order. Two readers who knew nothing of the pushes called each one
fluent, strained or broken. `steering.evaluate.coherence` is fitted to every other reply and scored on the rest.
"""

import argparse
import json
import lzma
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from steering.evaluate.coherence import FITTED, Figures, Ordinal, coherence, figures

FILE = Path(__file__).with_name("fluency_labels.jsonl.xz")
GRADES = {"fluent": 0, "strained": 1, "broken": 2}
VERDICTS = {"ok": 0, "strained": 1, "broken": 2}
RIDGE = 3e-3
console = Console(width=110)


@dataclass(frozen=True)
class Labelled:
    """One reply, its figures, and each reader's grade."""

    strength: float
    figures: Figures
    grades: tuple[int, ...]

    @property
    def grade(self) -> float:
        """Mean grade of the readers."""
        return sum(self.grades) / len(self.grades)


@dataclass(frozen=True)
class Scores:
    """How the verdict agrees with readers."""

    broken: float
    """Balanced accuracy of broken or not."""
    fluent: float
    """Balanced accuracy of fluent or not."""
    rank: float
    """Spearman's rank correlation of score and mean grade."""
    readers: float
    """Share of replies to which all readers gave the same grade."""
    fluent_if_fluent: float
    fluent_if_not: float


def load(file: Path = FILE) -> list[Labelled]:
    """Return the labelled replies, in their order."""
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        Labelled(r["strength"], figures(r["reply"], r["logprobs"]), tuple(GRADES[g] for g in r["labels"])) for r in rows
    ]


def fit(replies: list[Labelled]) -> Ordinal:
    """Return the proportional-odds model of the readers' grades; both sides of each cut weigh the same."""
    x = torch.tensor([r.figures for r in replies], dtype=torch.float64)
    middle, spread = x.mean(0), x.std(0)
    x = (x - middle) / spread
    y = torch.tensor([[r.grade >= 0.5, r.grade >= 1.5] for r in replies], dtype=torch.float64)
    weight = torch.where(y > 0, 0.5 / y.mean(0), 0.5 / (1 - y.mean(0)))
    w = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    cuts = torch.tensor([0.0, 0.5], dtype=torch.float64, requires_grad=True)  # the first, and the log of their distance
    optimizer = torch.optim.LBFGS([w, cuts], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        both = torch.stack([cuts[0], cuts[0] + cuts[1].exp()])
        odds = (x @ w)[:, None] - both
        value = torch.nn.functional.binary_cross_entropy_with_logits(odds, y, weight) * 2 + RIDGE * w.pow(2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    raw = w.detach() / spread
    start, step = cuts.detach().tolist()
    first = start + float(raw @ middle)
    return Ordinal(Figures(*(round(float(v), 3) for v in raw)), round(first, 3), round(first + math.exp(step), 3))


def score(replies: list[Labelled], model: Ordinal = FITTED) -> Scores:
    """Return how a model agrees with the readers of these replies."""
    verdicts = [VERDICTS[coherence(r.figures, model).verdict] for r in replies]
    grades = [r.grade for r in replies]
    fluent = [v == 0 for v in verdicts]
    return Scores(
        balanced([g >= 1.5 for g in grades], [v == 2 for v in verdicts]),
        balanced([g < 0.5 for g in grades], fluent),
        rank_correlation([sum(w * f for w, f in zip(model.weights, r.figures, strict=True)) for r in replies], grades),
        sum(len({*r.grades}) == 1 for r in replies) / len(replies),
        _share(f for f, g in zip(fluent, grades, strict=True) if g < 0.5),
        _share(f for f, g in zip(fluent, grades, strict=True) if g >= 0.5),
    )


def balanced(truth: list[bool], said: list[bool]) -> float:
    """Balanced accuracy: mean of the shares that are right among the true and among the false."""
    return (
        _share(s for s, t in zip(said, truth, strict=True) if t)
        + _share(not s for s, t in zip(said, truth, strict=True) if not t)
    ) / 2


def _share(values) -> float:  # noqa: ANN001 - any iterable of truth values
    held = [bool(v) for v in values]
    return sum(held) / len(held) if held else 0.0


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's: equal values share their mean rank."""
    ranks = [_ranks(torch.tensor(v, dtype=torch.float64)) for v in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def _ranks(values: Tensor) -> Tensor:
    """Mean ranks: equal values share theirs."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts - 1) / 2)[inverse]


def main() -> None:
    """Print the scores on the half that was not fitted to, and the shares by strength."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--fit", action="store_true", help="fit again, and print the constants")
    args = p.parse_args()
    replies = load()
    if args.fit:
        console.print(fit(replies[::2]))
    held = replies[1::2]
    found = score(held)
    table = Table("measure", "figure", "line")
    table.add_row("broken or not, balanced accuracy", f"{found.broken:.3f}", "≥ 0.85")
    table.add_row("fluent or not, balanced accuracy", f"{found.fluent:.3f}", "")
    table.add_row("rank correlation with readers", f"{found.rank:.3f}", "≥ 0.7")
    table.add_row("readers agree with each other", f"{found.readers:.0%}", "")
    table.add_row(
        "verdict fluent, of fluent / other replies", f"{found.fluent_if_fluent:.2f} / {found.fluent_if_not:.2f}", ""
    )
    console.print(f"{len(held)} replies that the verdict was not fitted to")
    console.print(table)
    by = Table("strength, typical norms", "replies", "fluent to readers", "expected")
    for strength in sorted({r.strength for r in replies}):
        some = [r for r in replies if r.strength == strength]
        read = _share(r.grade < 0.5 for r in some)
        expected = sum(coherence(r.figures).fluency for r in some) / len(some)
        by.add_row(f"{strength}", str(len(some)), f"{read:.0%}", f"{expected:.0%}")
    console.print(by)
    console.print(f"grades of the readers: {dict(Counter(g for r in replies for g in r.grades))} (0 fluent, 2 broken)")


if __name__ == "__main__":
    main()
