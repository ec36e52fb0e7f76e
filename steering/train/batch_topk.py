"""Train an SAE with BatchTopK and AuxK. Knows an iterator of activations; nothing of models or files.

BatchTopK (Bussmann et al. 2024) keeps the `k · batch` largest activations of a batch; AuxK (Gao et
al. 2024) lets dead features explain what is left over. What comes out is served as a JumpReLU: input
scale and `b_dec` are folded in, and one threshold is set on held-out rows so that L0 is `k`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steering.sae import SAE

Rows = Float[Tensor, "rows d_in"]


@dataclass(frozen=True)
class Recipe:
    """Every dial of a training run; the defaults are those of SAE.md §9 for small SAEs."""

    d_sae: int = 2048
    k: int = 32
    steps: int = 1500
    lr: float = 6e-4
    warmup: int = 100
    """Steps over which the learning rate rises and `k` falls from four times its value."""
    decay: float = 0.3
    """Share of the run, at its end, over which the learning rate falls to zero."""
    aux: float = 1 / 32
    aux_k: int = 64
    dead_after: int = 100_000
    """Tokens without firing after which a feature counts as dead."""
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a run is; the last one carries the SAE."""

    step: int
    loss: float
    explained_variance: float
    dead: int
    sae: SAE | None = None


class _Weights(torch.nn.Module):
    """The SAE while it learns, on inputs scaled so that E‖x‖² = d."""

    def __init__(self, first: Rows, recipe: Recipe) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(recipe.seed)
        d = first.shape[1]
        rows = torch.nn.functional.normalize(torch.randn(recipe.d_sae, d, generator=generator), dim=1)
        self.W_dec = torch.nn.Parameter(rows)
        self.W_enc = torch.nn.Parameter(rows.T.clone())
        self.b_enc = torch.nn.Parameter(torch.zeros(recipe.d_sae))
        self.b_dec = torch.nn.Parameter(first.mean(0))

    def pre(self, x: Rows) -> Tensor:
        """Pre-activations after ReLU."""
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    @torch.no_grad()
    def project(self) -> None:
        """Keep decoder rows at length 1."""
        self.W_dec.copy_(torch.nn.functional.normalize(self.W_dec, dim=1))

    @torch.no_grad()
    def tangent(self) -> None:
        """Take from the decoder's gradient what would only change lengths."""
        assert self.W_dec.grad is not None
        self.W_dec.grad -= (self.W_dec.grad * self.W_dec).sum(1, keepdim=True) * self.W_dec


def train(batches: Iterator[Rows], recipe: Recipe, *, held_out: Rows) -> Iterator[Progress]:
    """Train on `batches` for `recipe.steps`, yielding progress every 50 steps and, last, the SAE.

    `held_out` sets the threshold. Raises ValueError if the batches end too early.
    """
    first = next(batches)
    scale = math.sqrt(first.shape[1] / float(first.pow(2).sum(1).mean()))
    weights = _Weights(first * scale, recipe)
    optimizer = torch.optim.Adam(weights.parameters(), lr=recipe.lr, betas=(0.9, 0.999), eps=1e-8)
    idle = torch.zeros(recipe.d_sae)
    for step in range(recipe.steps):
        batch = next(batches, None)
        if batch is None:
            raise ValueError(
                f"the activations ended after {step} of {recipe.steps} steps; give more text or fewer steps"
            )
        optimizer.param_groups[0]["lr"] = recipe.lr * _schedule(step, recipe)
        error, loss, fired = _step(weights, batch * scale, _k_at(step, recipe), idle, recipe)
        loss.backward()
        weights.tangent()
        torch.nn.utils.clip_grad_norm_(weights.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        weights.project()
        idle = torch.where(fired, 0.0, idle + len(batch))
        if step % 50 == 49:
            variance = float((batch * scale - (batch * scale).mean(0)).pow(2).sum(1).mean())
            yield Progress(step + 1, float(loss.detach()), 1 - error / variance, int((idle > recipe.dead_after).sum()))
    sae = export(weights.W_enc, weights.b_enc, weights.W_dec, weights.b_dec, scale=scale, k=recipe.k, held_out=held_out)
    yield Progress(recipe.steps, 0.0, 0.0, int((idle > recipe.dead_after).sum()), sae)


@torch.no_grad()
def export(
    W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, *, scale: float, k: float, held_out: Rows
) -> SAE:
    """Fold scale and `b_dec` so that the SAE reads the raw stream; set the threshold so that L0 is `k`.

    With s the scale: a(s·x)/s has the same encoder, biases over s, and the decoder stays unit-length.
    """
    d_sae = W_dec.shape[0]
    sae = SAE(
        W_enc=W_enc.detach().clone(),
        b_enc=((b_enc - b_dec @ W_enc) / scale).clone(),
        W_dec=W_dec.detach().clone(),
        b_dec=(b_dec / scale).clone(),
        threshold=torch.zeros(d_sae),
    )
    return sae.calibrated(held_out, k)


def _step(weights: _Weights, x: Rows, k: int, idle: Tensor, recipe: Recipe) -> tuple[float, Tensor, Tensor]:
    """One forward pass: squared error per row, the loss, and which features fired."""
    pre = weights.pre(x)
    kept = _batch_topk(pre, k)
    x_hat = kept @ weights.W_dec + weights.b_dec
    residual = x - x_hat
    error = residual.pow(2).sum(1).mean()
    loss = error / x.shape[1]
    dead = (idle > recipe.dead_after).nonzero()[:, 0]
    if len(dead):
        top = pre[:, dead].topk(min(recipe.aux_k, len(dead)), dim=1)
        rescue = torch.zeros(len(x), len(dead)).scatter(1, top.indices, top.values) @ weights.W_dec[dead]
        left = residual.detach()
        loss = loss + recipe.aux * (left - rescue).pow(2).sum() / (left - left.mean(0)).pow(2).sum().clamp_min(1e-9)
    return float(error.detach()), loss, (kept > 0).any(0)


def _batch_topk(pre: Tensor, k: int) -> Tensor:
    positive = pre.detach()[pre.detach() > 0]
    wanted = k * len(pre)
    if wanted >= len(positive):
        return pre
    cut = positive.kthvalue(len(positive) - wanted).values
    return torch.where(pre > cut, pre, 0.0)


def _schedule(step: int, recipe: Recipe) -> float:
    return min(1.0, (step + 1) / recipe.warmup) * min(1.0, (recipe.steps - step) / (recipe.decay * recipe.steps))


def _k_at(step: int, recipe: Recipe) -> int:
    return round(recipe.k * (1 + 3 * max(0.0, 1 - step / recipe.warmup)))
