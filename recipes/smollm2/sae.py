"""Stages `sae:NAME`: SAEs trained on the cached activations by `steering.train`.

A run goes on from its last checkpoint; its figures every fifty steps are in `out/sae/NAME/metrics.jsonl`.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from recipes.smollm2.cache import Cached, cached_rows, held_rows, rows_in, shards_in
from recipes.smollm2.files import finish, say
from recipes.smollm2.text import KINDS
from steering.sae import SAE
from steering.train import checkpoint
from steering.train.objectives import BatchTopK, LearningRates
from steering.train.trainer import Trainer, TrainingRecipe, train_with_checkpoints

MODEL = "SmolLM2-135M-Instruct"
NEVER = 1 << 30


@dataclass(frozen=True)
class Run:
    """One SAE to make; `share` of the cached rows, `passes` times."""

    layer: int
    features: int = 8192
    k: int = 39
    matryoshka: bool = True
    passes: float = 1.0
    rows: int = 4096
    lr: float = 1.0
    """Times the trainer's own pace."""
    more: bool = False
    """Whether it also learns from the stage `more`."""
    seed: int = 0


def make_sae(out: Path, name: str, run: Run, threads: int) -> None:
    """Train, and leave the SAE in `out/sae/NAME`."""
    torch.set_num_threads(threads)
    folder = out / "sae" / name
    folder.mkdir(parents=True, exist_ok=True)
    calibrating, _ = halves(out, run.layer)
    shards, rows = shards_in(out, "learn"), cached_rows(out)
    if run.more:
        further = shards_in(out, "more")
        shards, rows = [*shards, *further], rows + sum(map(rows_in, further))
    sae, seconds, tokens = train(run, shards, calibrating, rows, folder)
    sae.save(folder, hook=f"layers.{run.layer}", model=MODEL, about={"trained": asdict(run)})
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    typical = float(torch.cat([*calibrating.values()]).norm(dim=1).median())
    record = {"run": asdict(run), "tokens": tokens, "seconds_since_last_start": seconds, "typical_norm": typical}
    finish(out, f"sae-{name}", record)


def train(
    run: Run, shards: list[Path], calibrating: dict[str, Tensor], rows: int, folder: Path
) -> tuple[SAE, int, int]:
    """The SAE, seconds since this start, and tokens learnt from."""
    steps = int(rows * run.passes) // run.rows
    tokens = steps * run.rows
    objective = Paced(
        k=run.k,
        dead_after=min(1_000_000, tokens // 10),
        matryoshka=run.features if run.matryoshka else NEVER,
        times=run.lr,
    )
    recipe = TrainingRecipe(
        objective, d_sae=run.features, steps=steps, dead_after=min(1_000_000, tokens // 10), seed=run.seed
    )
    mixed = torch.cat([*calibrating.values()])
    training, position, file = Trainer.start(recipe, mixed), (0, 0), folder / "checkpoint.pt"
    if file.exists():
        state = checkpoint.load(file)
        training.restore(state["training"])
        position = tuple(state["positions"][0])
        say(f"{folder.name}: goes on at step {training.steps} of {steps}")
    source = Cached(shards, run.layer, rows=run.rows, seed=run.seed, position=position)
    began, first = time.time(), training.steps
    for progress in train_with_checkpoints(training, source, every=100, file=file):
        figures = {k: v for k, v in asdict(progress).items() if k != "sae"}
        speed = round((progress.step - first) * run.rows / (time.time() - began))
        with (folder / "metrics.jsonl").open("a") as log:
            log.write(json.dumps(figures | {"tokens": progress.step * run.rows, "tokens_per_s": speed}) + "\n")
        if progress.step % 200 == 0:
            say(f"{folder.name}: {progress.step}/{steps}, EV {progress.explained_variance:.4f}, {speed} tokens/s")
    return training.to_sae(mixed), round(time.time() - began), tokens


def halves(out: Path, layer: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Held-out rows by kind: one half sets the threshold, the other is measured."""
    held = {kind: held_rows(out, kind, layer) for kind in KINDS}
    return {k: x[: len(x) // 2] for k, x in held.items()}, {k: x[len(x) // 2 :] for k, x in held.items()}


@dataclass(frozen=True)
class Paced(BatchTopK):
    """The product's BatchTopK at a multiple of its pace."""

    times: float = 1.0

    def learning_rates(self, d_in: int, d_sae: int) -> LearningRates:
        """How fast to learn."""
        usual = super().learning_rates(d_in, d_sae)
        return usual._replace(lr=usual.lr * self.times)
