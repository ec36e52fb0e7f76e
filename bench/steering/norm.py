"""Adding, clamping, and adding with the stream's length preserved, at equal KL: `python -m bench.steering.norm`.

For each of the bundle's showpieces the KL divergence of its push at `--dose` is taken, and the strength of the other two ways
is searched that diverges by as much from the unsteered model on its own replies. Then each way answers everyday questions,
with the same seeds. Prints how the replies read, and how far the unsteered model finds the feature in them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from bench.showpieces import BUNDLE, SHOWPIECES
from server.sae.model_loading import load_model, measuring_dtype
from steering.calibration import raw_at
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import dose_of, knots_of
from steering.doses.bundle_doses import prepare_rollouts
from steering.doses.measure import Reader
from steering.doses.rollouts import QUESTIONS, Rollout, Rollouts
from steering.edits import ResidualEdit, ResolvedIntervention, compile_edit
from steering.evaluate.coherence import judge
from steering.sae import SAE

ROUNDS = 6
"""Steps in which a strength is searched."""
CLOSE = 0.02
"""Relative difference in KL at which two pushes count as equal."""
WIDEST = 8.0
"""Largest factor on the strength of the plain addition, and the smallest one's inverse."""
Way = Callable[[int, float, SAE], ResidualEdit]
WAYS: dict[str, Way] = {
    "add": lambda row, raw, sae: compile_edit([ResolvedIntervention(row, "add", raw)], sae),
    "clamp": lambda row, raw, sae: compile_edit([ResolvedIntervention(row, "clamp", raw)], sae),
    "add, length preserved": lambda row, raw, sae: compile_edit(
        [ResolvedIntervention(row, "add", raw)], sae, preserve=True
    ),
}
console = Console(width=120)


@dataclass
class Figures:
    """What came of one way, reply by reply, and its strengths."""

    raw: list[float] = field(default_factory=list)
    """Strength, relative to the plain addition's."""
    kl: list[float] = field(default_factory=list)
    fluent: list[float] = field(default_factory=list)
    repetition: list[float] = field(default_factory=list)
    logprob: list[float] = field(default_factory=list)
    feature: list[float] = field(default_factory=list)

    def add(self, rollout: Rollout, tokenizer: PreTrainedTokenizerFast, read: Reader) -> None:
        """Count the replies to all questions."""
        for ids, logprobs, stream in zip(rollout.replies, rollout.logprobs, rollout.streams, strict=True):
            found = judge(str(tokenizer.decode(ids, skip_special_tokens=True)), logprobs)
            self.fluent.append(found.fluency)
            self.repetition.append(found.repetition)
            self.logprob.append(found.mean_logprob_unsteered)
            self.feature.append(read(stream.float()))


def main() -> None:
    """Measure, and print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path(BUNDLE))
    p.add_argument("--features", type=int, default=6, help="how many of the showpieces")
    p.add_argument("--questions", type=int, default=16)
    p.add_argument("--dose", type=float, default=1.0, help="dose of the addition whose KL the others get")
    args = p.parse_args()
    start, bundle = time.perf_counter(), Bundle.open(args.bundle)
    model, tokenizer = load_model(bundle.model_path, "cpu", dtype=measuring_dtype())
    stage = prepare_rollouts(model, tokenizer, bundle.info.hook, QUESTIONS[: args.questions], where=bundle.info.where)
    found = {name: Figures() for name in WAYS}
    plain = Figures()
    for piece in SHOWPIECES[: args.features]:
        feature = bundle.numbered[piece.feature]
        read = partial(activation, bundle.sae.only(torch.tensor([feature.row])), feature.typical_max)
        raw = raw_at(args.dose, knots_of(feature, dose_of(feature, bundle.info)))
        target, edits = stage.divergence(WAYS["add"](feature.row, raw, bundle.sae)), []
        for name, way in WAYS.items():
            at = partial(scaled, way, feature.row, raw, bundle.sae)
            factor, kl = (1.0, target) if name == "add" else matched(stage, at, target)
            found[name].raw.append(factor)
            found[name].kl.append(kl)
            edits.append(at(factor))
        for name, rollout in zip(WAYS, stage.run(edits, seed=0, kl=False), strict=True):
            found[name].add(rollout, tokenizer, read)
        plain.add(stage.plain, tokenizer, read)
        console.print(f"{piece.name}: KL {target:.3f}, {time.perf_counter() - start:.0f} s", highlight=False)
        console.print(table(found, plain))


def activation(part: SAE, typical_max: float, stream: Tensor) -> float:
    """A feature's mean activation over a reply, as the unsteered model reads it, in its typical maxima."""
    return float(part.encode(stream).float().mean()) / typical_max


def scaled(way: Way, row: int, raw: float, sae: SAE, factor: float) -> ResidualEdit:
    """One way's edit at a factor on a strength."""
    return way(row, factor * raw, sae)


def matched(stage: Rollouts, at: Callable[[float], ResidualEdit], target: float) -> tuple[float, float]:
    """The factor on the strength at which an edit diverges by `target`, and the divergence there."""
    factor = 1.0
    for _ in range(ROUNDS):
        kl = stage.divergence(at(factor))
        if abs(kl / target - 1) < CLOSE:
            return factor, kl
        factor = min(WIDEST, max(1 / WIDEST, factor * (target / kl) ** 0.5))  # KL grows with the square of small pushes
    return factor, stage.divergence(at(factor))


def table(found: dict[str, Figures], plain: Figures) -> Table:
    """Means, with the standard error of the mean over replies."""
    drawn = Table("way", "replies", "÷ add", "KL", "fluent", "repetition", "log-prob.", "feature")
    for name, f in [*found.items(), ("unsteered", plain)]:
        cells = (mean_and_error(x) for x in (f.fluent, f.repetition, f.logprob, f.feature))
        own = [f"{statistics.mean(x):.3f}" if x else "" for x in (f.raw, f.kl)]
        drawn.add_row(name, str(len(f.fluent)), *own, *cells)
    return drawn


def mean_and_error(values: list[float]) -> str:
    """A mean and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {error:.3f}"


if __name__ == "__main__":
    main()
