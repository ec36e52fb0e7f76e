"""Training run: `tiller sae train` in a folder with its configuration, tokens, last checkpoint, metrics and plot.

The same command, run again, resumes from there.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from server.sae.corpus import read_all, tokenize_texts
from server.sae.hub import resolve_sae_files
from server.sae.model_loading import load_model
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import BundleInfo
from steering.errors import SteeringError
from steering.evaluate.loss_recovered import LossRecovered, loss_recovered
from steering.evaluate.sae_metrics import SaeMetrics, measure_sae
from steering.files import atomic_draft, write_atomic
from steering.formats import read_sae
from steering.interpret.describe import describe
from steering.model.activations import ActivationStream, activations, padded_batches
from steering.model.token_store import TokenStore
from steering.sae import SAE
from steering.train import checkpoint
from steering.train.distributed import ProcessGroup
from steering.train.objectives import BatchTopK, JumpReLU, Objective, ReluL1, TopK
from steering.train.trainer import Progress, Trainer, TrainingRecipe, train_with_checkpoints
from steering.train.weights import Weights

Kind = Literal["batchtopk", "topk", "relu", "jumprelu", "jumprelu-l0"]
HELD_OUT = 50
"""Every n-th text is held out: for the threshold and the evaluation."""
MEASURED = 40_000
"""Number of held-out rows in memory, half for the threshold and half for evaluation."""
PLOTTED = (("loss", "loss"), ("explained variance", "explained_variance"), ("L0", "l0"), ("dead features", "dead"))


@dataclass(frozen=True)
class TrainConfig:
    """Training configuration: everything that the result depends on."""

    model: str
    hook: str
    text: tuple[str, ...] = ()
    dataset: str | None = None
    split: str = "train"
    column: str | None = None
    start: str | None = None
    objective: Kind = "batchtopk"
    features: int = 2048
    k: int = 32
    l1: float = 5.0
    sparsity: float = 10.0
    tokens: int | None = None
    passes: int = 1
    rows: int = 2048
    buffer: int = 200_000
    context: int = 512
    lr: float | None = None
    seed: int = 0
    ranks: int = 1


class TrainingRun:
    """One run in its folder. Raises SteeringError at the start if it is invalid."""

    def __init__(self, order: TrainConfig, folder: Path, *, device: torch.device, ranks: ProcessGroup) -> None:
        """Open or create it; all ranks see the same tokens."""
        self.order, self.folder, self.device, self.ranks = order, folder, device, ranks
        if ranks.rank == 0:
            _write_config(order, folder)
        self.model, self.tokenizer = load_model(order.model, device)
        self.skip = frozenset(self.tokenizer.all_special_ids)
        self.learn, self.held = _split(self._tokens())
        file = folder / "checkpoint.pt"
        self._saved = checkpoint.load(file, device=device) if file.exists() else None

    def train(self, tell: Callable[[Progress], None], *, every: int) -> None:
        """Train to the end; `tell` gets the progress on the first rank."""
        started, began = time.time(), self.training.steps
        if self.ranks.rank == 0:
            _truncate_metrics(self.folder / "metrics.jsonl", began)
        try:
            for progress in train_with_checkpoints(
                self.training, self._stream(), every=every, file=self.folder / "checkpoint.pt"
            ):
                if self.ranks.rank == 0:
                    tokens = self.order.rows * self.ranks.size
                    speed = (progress.step - began) * tokens / (time.time() - started)
                    self._note(progress, tokens * progress.step, speed)
                    tell(progress)
        except ValueError as error:
            raise SteeringError(str(error)) from error

    def finish(self, out: Path, note: str) -> tuple[SAE, SaeMetrics, LossRecovered]:
        """Write the bundle and the plot; returns the SAE and its evaluation on held-out text."""
        calibrating, testing = self.held_out.tensor_split(2)
        sae = self.training.to_sae(calibrating).to("cpu")
        measures = measure_sae(sae, testing.cpu().split(4096))
        few = [self.held[i] for i in range(min(len(self.held), 200))]
        texts = list(padded_batches(few, batch=4, longest=self.order.context, pad=0))
        torch.nn.Module.to(self.model, "cpu")
        spliced = loss_recovered(self.model, sae, texts, self.order.hook)
        info = BundleInfo(
            name=out.name,
            model=str(Path(self.order.model).resolve()) if Path(self.order.model).is_dir() else self.order.model,
            hook=self.order.hook,
            revision="r1",
            typical_norm=float(self.held_out.norm(dim=1).median()),
            skip_special=True,
            metrics={"explained_variance": measures.explained_variance, "l0": measures.l0, "dead": measures.dead},
        )
        features = describe(self.model, self.tokenizer, sae, self.order.hook, iter(texts), bundle=out.name)
        Bundle.create(out, info, sae, features=features, about={"trained": asdict(self.order), "note": note})
        again = SAE.load(out / "revisions" / "r1")
        if not again.encode(testing[:256].cpu()).equal(sae.encode(testing[:256].cpu())):
            raise SteeringError(f"the SAE in {str(out)!r} is not the one that was trained; is the disk failing?")
        plot(self.folder / "metrics.jsonl", self.folder / "plot.png")
        return sae, measures, spliced

    @cached_property
    def steps(self) -> int:
        """Number of steps that the text allows."""
        lengths = self.learn.lengths().clip(max=self.order.context)
        special = sum(token in self.skip for text in self.learn for token in text[1 : self.order.context])
        rows = (int((lengths - 1).sum()) - special) * self.order.passes
        steps = rows // (self.order.rows * self.ranks.size)
        if not steps:
            raise SteeringError(
                f"{rows} tokens are too few for a batch of {self.order.rows}; give more text or fewer --rows"
            )
        return steps

    @cached_property
    def held_out(self) -> Tensor:
        """Residual stream of the held-out text, `[rows, d_in]`."""
        batches, parts, n = padded_batches(self.held, batch=16, longest=self.order.context, pad=0), [], 0
        for part in activations(self.model, batches, self.order.hook, skip=self.skip):
            parts.append(part)
            n += len(part)
            if n >= MEASURED:
                break
        if n < 2:
            raise SteeringError("too little text: nothing is left to measure on; give at least a hundred lines")
        return torch.cat(parts)[:MEASURED]

    @cached_property
    def training(self) -> Trainer:
        """New, initialized from another SAE, or from the checkpoint."""
        if self.order.start is None:
            training = Trainer.start(self._recipe(), self.held_out, ranks=self.ranks)
        else:
            scale = (self.held_out.shape[1] / float(self.held_out.pow(2).sum(1).mean())) ** 0.5
            weights = Weights.from_sae(self._start(), scale).to(self.device)
            training = Trainer(self._recipe(), weights, scale, ranks=self.ranks)
        if self._saved:
            training.restore(self._saved["training"])
        return training

    def _start(self) -> SAE:
        sae = read_sae(resolve_sae_files(str(self.order.start)), hook=self.order.hook, k=self.order.k).sae
        sae.check_learns()
        if (sae.d_sae, sae.d_in) != (self.order.features, self.held_out.shape[1]):
            raise SteeringError(
                f"the SAE to start from is {sae.d_sae} × {sae.d_in}; asked for are {self.order.features} features"
                f" of a stream of width {self.held_out.shape[1]}"
            )
        return sae

    def _recipe(self) -> TrainingRecipe:
        order = self.order
        return TrainingRecipe(
            _objective(order),
            d_sae=order.features,
            steps=self.steps,
            lr=order.lr,
            warmup=min(1000, max(1, self.steps // 10)),
            decay=0.2,
            dead_after=_dead_after(self.steps * order.rows * self.ranks.size),
            seed=order.seed,
        )

    def _stream(self) -> Any:  # noqa: ANN401 - heavy
        positions = self._saved["positions"] if self._saved else [(0, 0)] * self.ranks.size
        return ActivationStream(
            self.model,
            self.learn,
            self.order.hook,
            rows=self.order.rows,
            buffer=self.order.buffer,
            skip=self.skip,
            longest=self.order.context,
            passes=self.order.passes + 1,  # sinks are dropped as they occur: the last batches may need more rows
            seed=self.order.seed,
            share=(self.ranks.rank, self.ranks.size),
            position=(positions[self.ranks.rank][0], positions[self.ranks.rank][1]),
        )

    def _tokens(self) -> TokenStore:
        folder, order = self.folder / "tokens", self.order
        if self.ranks.rank == 0 and not TokenStore.exists(folder):
            texts = read_all([Path(t) for t in order.text], order.dataset, split=order.split, column=order.column)
            TokenStore.write(folder, tokenize_texts(self.tokenizer, texts, longest=order.context), most=order.tokens)
        self.ranks.wait()
        return TokenStore.open(folder)

    def _note(self, progress: Progress, tokens: int, speed: float) -> None:
        row = {k: v for k, v in asdict(progress).items() if k != "sae"}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row | {"tokens": tokens, "tokens_per_s": round(speed)}) + "\n")


def plot(metrics: Path, file: Path) -> bool:
    """Plot the metrics; False if the plotting library is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), sharex=True, layout="constrained")
    for axis, (title, key) in zip(axes.flat, PLOTTED, strict=True):
        axis.plot([r["tokens"] for r in rows], [r[key] for r in rows], linewidth=1.5)
        axis.set_title(title)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("tokens")
    with atomic_draft(file) as draft:
        figure.savefig(draft, dpi=120, format="png")
    pyplot.close(figure)
    return True


def _objective(order: TrainConfig) -> Objective:
    dead = _dead_after(order.tokens or 10**9)
    return {
        "batchtopk": BatchTopK(k=order.k, dead_after=dead),
        "topk": TopK(k=order.k, dead_after=dead),
        "relu": ReluL1(l1=order.l1),
        "jumprelu": JumpReLU(sparsity=order.sparsity),
        "jumprelu-l0": JumpReLU(target=order.k),
    }[order.objective]


def _dead_after(tokens: int) -> int:
    """Ten million tokens, or a twentieth of a shorter run."""
    return max(1, min(10_000_000, tokens // 20))


def _split(tokens: TokenStore) -> tuple[TokenStore, TokenStore]:
    """Training texts, and every fiftieth text."""
    if len(tokens) < 2:
        raise SteeringError("too little text: give at least a hundred lines")
    every = min(HELD_OUT, len(tokens))
    return tokens.subset([i for i in range(len(tokens)) if i % every]), tokens.subset(range(0, len(tokens), every))


def _write_config(order: TrainConfig, folder: Path) -> None:
    """Write the configuration; refuse a folder with a different one."""
    folder.mkdir(parents=True, exist_ok=True)
    file, asked = folder / "order.json", json.loads(json.dumps(asdict(order)))
    if not file.exists():
        write_atomic(file, json.dumps(asked, indent=1) + "\n")
        return
    before = json.loads(file.read_text())
    if changed := [f"{k} was {before.get(k)!r} and is {v!r}" for k, v in asked.items() if before.get(k) != v]:
        raise SteeringError(
            f"{str(folder)!r} holds a run with another configuration: {'; '.join(changed)}."
            " Use the same options to resume it, or delete that folder"
        )


def _truncate_metrics(metrics: Path, step: int) -> None:
    """Drop metrics after the checkpoint: they are computed again."""
    if not metrics.exists():
        return
    kept = [
        line for line in metrics.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step
    ]
    metrics.with_name("metrics.jsonl.tmp").write_text("".join(f"{line}\n" for line in kept))
    shutil.move(metrics.with_name("metrics.jsonl.tmp"), metrics)
