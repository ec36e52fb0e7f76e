"""Train an SAE. Knows batches of activations, an objective and a schedule; nothing of models or files."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from steering.sae import SAE
from steering.train import checkpoint
from steering.train.distributed import SINGLE_PROCESS, ProcessGroup
from steering.train.objectives import BatchTopK, LearningRates, Objective, Schedule
from steering.train.weights import Rows, Weights

EVERY = 50
MOMENTS = ("exp_avg", "exp_avg_sq")
LONG = 10_000
"""Steps after which Adam's moments need no correction for having begun at zero."""
"""Progress is the mean over so many steps."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Every dial of a training run; the defaults are for small SAEs."""

    objective: Objective = field(default_factory=BatchTopK)
    d_sae: int = 2048
    steps: int = 1500
    lr: float | None = None
    """The objective's own pace, if not given; else this with Adam's usual moments."""
    warmup: int = 100
    """Steps over which the learning rate rises."""
    decay: float | None = None
    """Share of the run, at its end, over which the learning rate falls to zero; the pace's, if not given."""
    dead_after: int = 100_000
    """Tokens without firing after which progress counts a feature as dead."""
    seed: int = 0

    def pace(self, d_in: int) -> LearningRates:
        """How fast to learn."""
        return self.objective.learning_rates(d_in, self.d_sae) if self.lr is None else LearningRates(self.lr)

    def slope(self, step: int, decay: float) -> float:
        """Of the learning rate, what is used at a step."""
        decay = decay if self.decay is None else self.decay
        return min(1.0, (step + 1) / self.warmup) * min(1.0, (self.steps - step) / max(1, decay * self.steps))


@dataclass(frozen=True)
class Progress:
    """How far a run is, its figures the means of the last steps; the last one carries the SAE."""

    step: int
    loss: float
    explained_variance: float
    l0: float
    dead: int
    sae: SAE | None = None


class Trainer:
    """One run: weights, moments, and how long each feature has been silent. `step` is the only thing that changes it."""

    def __init__(
        self, recipe: TrainingRecipe, weights: Weights, scale: float, *, ranks: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        """`scale` is what the stream is multiplied by, so that E‖x‖² = d."""
        self.recipe, self.weights, self.scale, self.ranks = recipe, weights, scale, ranks
        self.steps = 0
        device = weights.W_dec.device
        self._idle = torch.zeros(recipe.d_sae, device=device)
        self._pace = recipe.pace(weights.W_dec.shape[1])
        self._optimizer = torch.optim.Adam(self._groups(), betas=self._pace.moments, eps=1e-8, fused=True)
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)

    @staticmethod
    def start(recipe: TrainingRecipe, first: Rows, *, ranks: ProcessGroup = SINGLE_PROCESS) -> "Trainer":
        """A new run; `first` are activations that say how long the stream is and where its middle lies."""
        first = ranks.gather(first)
        scale = math.sqrt(first.shape[1] / float(first.pow(2).sum(1).mean()))
        weights = recipe.objective.initial_weights(
            first * scale, recipe.d_sae, torch.Generator().manual_seed(recipe.seed)
        )
        return Trainer(recipe, weights, scale, ranks=ranks)

    def step(self, batch: Rows) -> None:
        """Learn from one batch of the raw stream."""
        x = batch * self.scale
        with _autocast(x):
            terms = self.recipe.objective.loss_terms(
                self.weights, x, Schedule(self.steps, self.recipe.steps, self._idle, self.ranks)
            )
        terms.loss.backward()
        parameters = list(self.weights.parameters())
        self.ranks.average_gradients(parameters)
        self.weights.tangent()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = group["full"] * self.recipe.slope(self.steps, self._pace.decay)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.weights.project()
        counts = self.ranks.sum(terms.counts)
        self._idle = torch.where(counts > 0, 0.0, self._idle + len(batch) * self.ranks.size)
        self.steps += 1
        variance = (x - x.mean(0)).pow(2).sum(1).mean()
        new = torch.stack([terms.loss.detach(), terms.error.detach(), variance, terms.counts.sum() / len(batch)])
        self._sums += self.ranks.mean(new.double())

    def _groups(self) -> list[dict[str, Any]]:
        """A group for each weight, in their order, so that moments can be found by it."""
        pace, biases = self._pace, ("b_enc", "b_dec")
        return [
            {"params": [p], "lr": 0.0, "full": pace.lr * (pace.biases if name in biases else 1.0)}
            for name, p in self.weights.named_parameters()
        ]

    def progress(self) -> Progress:
        """The means since the last time that this was asked for."""
        loss, error, variance, l0 = (self._sums / EVERY).tolist()
        self._sums.zero_()
        return Progress(self.steps, loss, 1 - error / max(variance, 1e-12), l0, self.dead)

    @property
    def dead(self) -> int:
        """How many features have been silent for longer than the recipe allows."""
        return int((self._idle > self.recipe.dead_after).sum())

    def to_sae(self, held_out: Rows) -> SAE:
        """What is served of it now; `held_out`, of the raw stream, sets the threshold where none is learnt."""
        return self.recipe.objective.to_sae(self.weights, self.scale, held_out)

    def state(self) -> dict[str, Any]:
        """All of it, for `restore`; right after `progress`, nothing is left out."""
        return {
            "steps": self.steps,
            "scale": self.scale,
            "idle": self._idle,
            "weights": self.weights.state_dict(),
            "moments": self._optimizer.state_dict(),
        }

    def moments(self) -> dict[str, Tensor]:
        """Adam's moments by weight, for `warm`: a later run of the same features begins with them."""
        state = self._optimizer.state_dict()["state"]
        names = [name for name, _ in self.weights.named_parameters()]
        return {f"{name}.{part}": state[i][part] for i, name in enumerate(names) if i in state for part in MOMENTS}

    def restore_moments(self, moments: Mapping[str, Tensor], *, new: Tensor) -> None:
        """Begin with the moments of an earlier run. Its features are the first ones here; those in `new`, a mask over all,
        and those beyond, have no past: they begin at rest, with the usual size of the others' gradients.

        Raises ValueError if they are of other weights.
        """
        state = self._optimizer.state_dict()
        for i, (name, weight) in enumerate(self.weights.named_parameters()):
            held: dict[str, Tensor] = {}
            for part in MOMENTS:
                before = moments[f"{name}.{part}"].to(weight)
                if before.shape[1:] != weight.shape[1:] or len(before) > len(weight):
                    raise ValueError(
                        f"moments of {name} are {list(before.shape)}; the weights are {list(weight.shape)}"
                    )
                usual = before.mean(0) if part == "exp_avg_sq" else torch.zeros_like(before[0])
                held[part] = torch.cat([before, usual.expand(len(weight) - len(before), *usual.shape)])
                if weight.shape[:1] == new.shape and name != "b_dec":
                    held[part][new] = usual
                if name == "W_dec" and self.weights.held is not None and part == "exp_avg":
                    held[part][self.weights.held] = 0  # what does not move must not coast, either
            state["state"][i] = {"step": torch.tensor(float(LONG)), **held}
        self._optimizer.load_state_dict(state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        self.steps, self.scale, self._idle = state["steps"], state["scale"], state["idle"]
        self.weights.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["moments"])


class Source(Protocol):
    """Batches that can be gone on with: a new source at `position` gives what this one would give next."""

    @property
    def position(self) -> tuple[int, ...]:
        """Where it is, in whatever numbers it needs."""
        ...

    def __next__(self) -> Rows:
        """The next batch."""
        ...


def train_with_checkpoints(run: Trainer, source: Source, *, every: int, file: Path) -> Iterator[Progress]:
    """Train to the recipe's last step, yielding progress every 50 and leaving a checkpoint in `file` every `every`.

    Raises ValueError if the batches end too early.
    """
    while run.steps < run.recipe.steps:
        try:
            batch = next(source)
        except StopIteration:
            raise ValueError(_ended(run.steps, run.recipe.steps)) from None
        run.step(batch)
        if run.steps % EVERY:
            continue
        yield run.progress()
        if run.steps % every == 0:
            positions = run.ranks.gather(torch.tensor(source.position)).view(run.ranks.size, -1).tolist()
            if run.ranks.rank == 0:
                checkpoint.save(file, {"training": run.state(), "positions": positions})


def train(batches: Iterator[Rows], recipe: TrainingRecipe, *, held_out: Rows) -> Iterator[Progress]:
    """Train on `batches` for `recipe.steps`, yielding progress every 50 steps and, last, the SAE.

    `held_out` sets the threshold where the objective has none. Raises ValueError if the batches end too early.
    """
    run = Trainer.start(recipe, next(batches))
    while run.steps < recipe.steps:
        batch = next(batches, None)
        if batch is None:
            raise ValueError(_ended(run.steps, recipe.steps))
        run.step(batch)
        if run.steps % EVERY == 0:
            yield run.progress()
    yield Progress(recipe.steps, 0.0, 0.0, 0.0, run.dead, run.to_sae(held_out))


def _ended(step: int, steps: int) -> str:
    return f"the activations ended after {step} of {steps} steps; give more text or fewer steps"


def _autocast(x: Rows) -> AbstractContextManager[object]:
    """bfloat16 products on a GPU; weights and moments stay float32."""
    return torch.autocast("cuda", torch.bfloat16) if x.is_cuda else nullcontext()
