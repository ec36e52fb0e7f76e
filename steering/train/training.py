"""Train an SAE. Knows an iterator of activations, an objective and a schedule; nothing of models or files."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from steering.sae import SAE
from steering.train.objectives import BatchTopK, Moment, Objective
from steering.train.weights import Rows


@dataclass(frozen=True)
class Recipe:
    """Every dial of a training run; the defaults are those of SAE.md §9 for small SAEs."""

    objective: Objective = field(default_factory=BatchTopK)
    d_sae: int = 2048
    steps: int = 1500
    lr: float = 6e-4
    warmup: int = 100
    """Steps over which the learning rate rises."""
    decay: float = 0.3
    """Share of the run, at its end, over which the learning rate falls to zero."""
    dead_after: int = 100_000
    """Tokens without firing after which progress counts a feature as dead."""
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a run is; the last one carries the SAE."""

    step: int
    loss: float
    explained_variance: float
    l0: float
    dead: int
    sae: SAE | None = None


def train(batches: Iterator[Rows], recipe: Recipe, *, held_out: Rows) -> Iterator[Progress]:
    """Train on `batches` for `recipe.steps`, yielding progress every 50 steps and, last, the SAE.

    `held_out` sets the threshold where the objective has none. Raises ValueError if the batches end too early.
    """
    first = next(batches)
    scale = math.sqrt(first.shape[1] / float(first.pow(2).sum(1).mean()))
    objective = recipe.objective
    weights = objective.begin(first * scale, recipe.d_sae, torch.Generator().manual_seed(recipe.seed))
    optimizer = torch.optim.Adam(weights.parameters(), lr=recipe.lr, betas=(0.9, 0.999), eps=1e-8)
    idle = torch.zeros(recipe.d_sae, device=first.device)
    for step in range(recipe.steps):
        batch = next(batches, None)
        if batch is None:
            raise ValueError(
                f"the activations ended after {step} of {recipe.steps} steps; give more text or fewer steps"
            )
        x = batch * scale
        optimizer.param_groups[0]["lr"] = recipe.lr * _schedule(step, recipe)
        terms = objective.terms(weights, x, Moment(step, recipe.steps, idle))
        terms.loss.backward()
        weights.tangent()
        torch.nn.utils.clip_grad_norm_(weights.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        weights.project()
        on = terms.kept.detach() > 0
        idle = torch.where(on.any(0), 0.0, idle + len(batch))
        if step % 50 == 49:
            variance = float((x - x.mean(0)).pow(2).sum(1).mean())
            yield Progress(
                step + 1,
                float(terms.loss.detach()),
                1 - float(terms.error.detach()) / variance,
                float(on.sum(1).double().mean()),
                int((idle > recipe.dead_after).sum()),
            )
    sae = objective.served(weights, scale, held_out)
    yield Progress(recipe.steps, 0.0, 0.0, 0.0, int((idle > recipe.dead_after).sum()), sae)


def _schedule(step: int, recipe: Recipe) -> float:
    return min(1.0, (step + 1) / recipe.warmup) * min(1.0, (recipe.steps - step) / (recipe.decay * recipe.steps))
