"""SAE training loop: optimiser steps, learning-rate schedule, progress, checkpoints and resumption."""

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
"""Step count at which Adam's moments need no bias correction."""
"""Progress is reported every `EVERY` steps, as means over them."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Hyperparameters of a training run; the defaults are for small SAEs."""

    objective: Objective = field(default_factory=BatchTopK)
    d_sae: int = 2048
    steps: int = 1500
    lr: float | None = None
    """Learning rate, with Adam's usual betas; by default, the objective's own learning rates."""
    warmup: int = 100
    """Steps of linear learning-rate warm-up."""
    decay: float | None = None
    """Share of the run, at its end, over which the learning rate decays to zero; by default, the objective's."""
    dead_after: int = 100_000
    """Tokens without firing after which progress counts a feature as dead."""
    seed: int = 0

    def pace(self, d_in: int) -> LearningRates:
        """Return the learning rates."""
        return self.objective.learning_rates(d_in, self.d_sae) if self.lr is None else LearningRates(self.lr)

    def slope(self, step: int, decay: float) -> float:
        """Return the factor on the learning rate at a step."""
        decay = decay if self.decay is None else self.decay
        return min(1.0, (step + 1) / self.warmup) * min(1.0, (self.steps - step) / max(1, decay * self.steps))


@dataclass(frozen=True)
class Progress:
    """Progress of a run, with means over the last steps; the last one has the SAE."""

    step: int
    loss: float
    explained_variance: float
    l0: float
    dead: int
    sae: SAE | None = None


class Trainer:
    """One training run: weights, optimiser moments, and the tokens since each feature last fired. Only `step` changes
    it.
    """

    def __init__(
        self, recipe: TrainingRecipe, weights: Weights, scale: float, *, ranks: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        """`scale` is the factor on the stream that makes E‖x‖² = d."""
        self.recipe, self.weights, self.scale, self.ranks = recipe, weights, scale, ranks
        self.steps = 0
        device = weights.W_dec.device
        self._idle = torch.zeros(recipe.d_sae, device=device)
        self._pace = recipe.pace(weights.W_dec.shape[1])
        self._optimizer = torch.optim.Adam(self._groups(), betas=self._pace.moments, eps=1e-8, fused=True)
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)

    @staticmethod
    def start(recipe: TrainingRecipe, first: Rows, *, ranks: ProcessGroup = SINGLE_PROCESS) -> "Trainer":
        """Start a new run; scale and mean of the stream are estimated from the activations `first`."""
        first = ranks.gather(first)
        scale = math.sqrt(first.shape[1] / float(first.pow(2).sum(1).mean()))
        weights = recipe.objective.initial_weights(
            first * scale, recipe.d_sae, torch.Generator().manual_seed(recipe.seed)
        )
        return Trainer(recipe, weights, scale, ranks=ranks)

    def step(self, batch: Rows) -> None:
        """Train on one batch of the raw stream."""
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
        """One parameter group per weight, in their order, so that moments can be found by it."""
        pace, biases = self._pace, ("b_enc", "b_dec")
        return [
            {"params": [p], "lr": 0.0, "full": pace.lr * (pace.biases if name in biases else 1.0)}
            for name, p in self.weights.named_parameters()
        ]

    def progress(self) -> Progress:
        """Return means since the last call."""
        loss, error, variance, l0 = (self._sums / EVERY).tolist()
        self._sums.zero_()
        return Progress(self.steps, loss, 1 - error / max(variance, 1e-12), l0, self.dead)

    @property
    def dead(self) -> int:
        """Number of features that have not fired for longer than the recipe allows."""
        return int((self._idle > self.recipe.dead_after).sum())

    def to_sae(self, held_out: Rows) -> SAE:
        """Return the current SAE; `held_out`, of the raw stream, sets the threshold where none is learnt."""
        return self.recipe.objective.to_sae(self.weights, self.scale, held_out)

    def state(self) -> dict[str, Any]:
        """Return the complete state for `restore`; complete only right after `progress`."""
        return {
            "steps": self.steps,
            "scale": self.scale,
            "idle": self._idle,
            "weights": self.weights.state_dict(),
            "moments": self._optimizer.state_dict(),
        }

    def moments(self) -> dict[str, Tensor]:
        """Return Adam's moments by weight, for `restore_moments` of a later run of the same features."""
        state = self._optimizer.state_dict()["state"]
        names = [name for name, _ in self.weights.named_parameters()]
        return {f"{name}.{part}": state[i][part] for i, name in enumerate(names) if i in state for part in MOMENTS}

    def restore_moments(self, moments: Mapping[str, Tensor], *, new: Tensor) -> None:
        """Start with the moments of an earlier run, whose features are the first ones here.

        Features in the mask `new` and appended ones have no history: their first moment is zero, their second the mean
        of the others'. Raises ValueError if the moments are of other weights.
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
                    held[part][self.weights.held] = 0  # rows that are fixed must not move by momentum either
            state["state"][i] = {"step": torch.tensor(float(LONG)), **held}
        self._optimizer.load_state_dict(state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume exactly where `state` was taken."""
        self.steps, self.scale, self._idle = state["steps"], state["scale"], state["idle"]
        self.weights.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["moments"])


class Source(Protocol):
    """Batches that can be resumed: a new source at `position` yields what this one would yield next."""

    @property
    def position(self) -> tuple[int, ...]:
        """Position, as numbers of the source's own choice."""
        ...

    def __next__(self) -> Rows:
        """Return the next batch."""
        ...


def train_with_checkpoints(run: Trainer, source: Source, *, every: int, file: Path) -> Iterator[Progress]:
    """Train to the recipe's last step; yield progress every 50 steps and write a checkpoint to `file` every `every`.

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
    """Train on `batches` for `recipe.steps`; yield progress every 50 steps and, last, the SAE.

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
