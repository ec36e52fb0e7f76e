"""What an SAE is trained towards. Knows weights and one batch; nothing of loops, schedules of lr, or files.

An objective makes the first weights, turns a batch into a loss, and says what is served. Inputs have
E‖x‖² = d, so that coefficients and thresholds carry over from model to model.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from steering.sae import SAE
from steering.train.distributed import SINGLE_PROCESS, ProcessGroup
from steering.train.kernels import ActiveCode, EncoderPass, encode_batch
from steering.train.top_k import Cut
from steering.train.top_k import kth_largest as _largest
from steering.train.weights import Rows, Weights

Activations = Float[Tensor, "rows d_sae"]
LARGE = 1e-2
"""The learning rate of BatchTopK at 2,048 features."""


class LossTerms(NamedTuple):
    """One batch's loss, the mean squared length of what is left over, and on how many rows each feature fired."""

    loss: Tensor
    error: Tensor
    counts: Float[Tensor, " d_sae"]


class Schedule(NamedTuple):
    """Where in a run a batch comes, for how many tokens each feature has been silent, and who trains along."""

    step: int
    steps: int
    idle: Float[Tensor, " d_sae"]
    ranks: ProcessGroup = SINGLE_PROCESS


class LearningRates(NamedTuple):
    """How fast to learn."""

    lr: float
    moments: tuple[float, float] = (0.9, 0.999)
    """Adam's."""
    biases: float = 1.0
    """By what the rate of the encoder's and the decoder's biases is multiplied."""
    decay: float = 0.3
    """Share of the run, at its end, over which the rate falls to zero."""


class Objective(Protocol):
    """A way to be sparse."""

    def learning_rates(self, d_in: int, d_sae: int) -> LearningRates:
        """How fast to learn, where nobody says."""
        ...

    def initial_weights(self, first: Rows, d_sae: int, generator: torch.Generator) -> Weights:
        """The weights before the first step."""
        ...

    def loss_terms(self, weights: Weights, x: Rows, now: Schedule) -> LossTerms:
        """Forward, and what is to be made smaller."""
        ...

    def to_sae(self, weights: Weights, scale: float, held_out: Rows) -> SAE:
        """What is served of it; `held_out` is the raw stream."""
        ...


@dataclass(frozen=True)
class BatchTopK:
    """Keep the `k · rows` largest activations of a batch (Bussmann et al. 2024); AuxK for the dead (Gao et al. 2024).

    Dead features explain what is left over, its loss normalised by the variance of that. From `matryoshka`
    features on, the first 1/16 and the first 1/4 of them have to reconstruct by themselves, too, so that
    general features are not absorbed by special ones (Bussmann et al. 2025).
    """

    k: int = 32
    aux: float = 1 / 32
    aux_k: int = 64
    anneal: int = 100
    """Steps over which `k` falls from four times its value."""
    dead_after: int = 100_000
    """Tokens without firing after which a feature counts as dead."""
    matryoshka: int = 8192

    def learning_rates(self, d_in: int, d_sae: int) -> LearningRates:
        """Almost only the gradient's sign, in large steps: a tenth of the tokens for the same explained variance.

        Activations are √d times as large as what the weights are made of, and so are the biases' steps.
        """
        return LearningRates(LARGE * math.sqrt(2048 / d_sae), (0.0, 0.9), math.sqrt(d_in), decay=1.0)

    def initial_weights(self, first: Rows, d_sae: int, generator: torch.Generator) -> Weights:
        """Random unit rows, the encoder their transpose, the decoder's bias the mean."""
        rows = torch.nn.functional.normalize(torch.randn(d_sae, first.shape[1], generator=generator), dim=1)
        rows = rows.to(first.device)
        silent = torch.zeros(d_sae, device=first.device)
        return Weights(rows.T.clone(), silent, rows, first.mean(0), subtracts=True, unit=True)

    def loss_terms(self, weights: Weights, x: Rows, now: Schedule) -> LossTerms:
        """Squared error over d, and AuxK's."""
        batch = encode_batch(weights, x)
        kept = self.active(batch, round(self.k * (1 + 3 * max(0.0, 1 - now.step / self.anneal))), now.ranks)
        left = x - weights.b_dec - kept.write(self.prefix_ends(weights.d_sae))
        errors = left.pow(2).sum(2).mean(1)
        loss = errors.mean() / x.shape[1]
        dead = (now.idle > self.dead_after).nonzero()[:, 0]
        if len(dead):
            loss = loss + self.aux * self._auxk_loss(batch, dead, left[-1].detach(), now.ranks)
        return LossTerms(loss, errors[-1], kept.counts)

    def prefix_ends(self, d_sae: int) -> tuple[int, ...]:
        """Up to where each reconstruction goes."""
        return (d_sae // 16, d_sae // 4, d_sae) if d_sae >= self.matryoshka else (d_sae,)

    def threshold(self, pre: Activations, k: int, ranks: ProcessGroup) -> Cut:
        """Above which activations count."""
        return _largest(pre, k * len(pre), ranks)

    def active(self, batch: EncoderPass, k: int, ranks: ProcessGroup) -> ActiveCode:
        """The activations that count."""
        return batch.kth_largest(k * len(batch.pre), ranks)

    def to_sae(self, weights: Weights, scale: float, held_out: Rows) -> SAE:
        """One threshold, at which `held_out` keeps `k` a token."""
        return weights.to_sae(scale).calibrated(held_out, self.k)

    def _auxk_loss(self, batch: EncoderPass, dead: Tensor, left: Rows, ranks: ProcessGroup) -> Tensor:
        """Squared error of the dead on what is left, over its variance in the whole batch."""
        cut = _kth(batch.pre[:, dead], self.aux_k)
        explained = batch.above(cut, dead).write((batch.pre.shape[1],))[0]
        total = ranks.mean((left - ranks.mean(left.mean(0))).pow(2).sum(1).mean())
        return (left - explained).pow(2).sum(1).mean() / total.clamp_min(1e-9)


@dataclass(frozen=True)
class TopK(BatchTopK):
    """Keep the `k` largest activations of each token (Gao et al. 2024)."""

    def threshold(self, pre: Activations, k: int, ranks: ProcessGroup) -> Cut:  # noqa: ARG002
        """Above which activations count."""
        return _kth(pre, k)

    def active(self, batch: EncoderPass, k: int, ranks: ProcessGroup) -> ActiveCode:
        """The activations that count."""
        return batch.above(self.threshold(batch.pre, k, ranks))


@dataclass(frozen=True)
class ReluL1:
    """`E[‖x − x̂‖² + λ Σ f_i ‖d_i‖]` with free lengths, folded when served (Templeton et al. 2024, Scaling Monosemanticity).

    Decoder rows begin at length 0.1 with the encoder their transpose and no bias taken from the input; λ
    rises over the first twentieth. Give the run `lr` 5e-5 and `decay` 0.2, as there; small runs bear more.
    """

    l1: float = 5.0
    warmup: float = 0.05

    def learning_rates(self, d_in: int, d_sae: int) -> LearningRates:  # noqa: ARG002
        """That of Gao et al. 2024."""
        return _check_finite(d_sae)

    def initial_weights(self, first: Rows, d_sae: int, generator: torch.Generator) -> Weights:
        """Random rows of length 0.1."""
        d = first.shape[1]
        rows = 0.1 * torch.nn.functional.normalize(torch.randn(d_sae, d, generator=generator), dim=1)
        rows, zeros = rows.to(first.device), first.new_zeros
        return Weights(rows.T.clone(), zeros(d_sae), rows, zeros(d), subtracts=False, unit=False)

    def loss_terms(self, weights: Weights, x: Rows, now: Schedule) -> LossTerms:
        """Squared error and the weighted penalty."""
        f = torch.relu(weights.pre(x))
        error = (x - weights.decode(f)).pow(2).sum(1).mean()
        rise = min(1.0, (now.step + 1) / max(1.0, self.warmup * now.steps))
        return LossTerms(error + self.l1 * rise * (f * weights.lengths).sum(1).mean(), error, _counts(f))

    def to_sae(self, weights: Weights, scale: float, held_out: Rows) -> SAE:  # noqa: ARG002
        """Every positive pre-activation fires: threshold 0."""
        return weights.to_sae(scale)


@dataclass(frozen=True)
class JumpReLU:
    """Thresholds that learn through a window of width `bandwidth` around them (Rajamanoharan et al. 2024).

    `Σ tanh(c·f_i·‖d_i‖)` is pressed down, with a small push for features far below their threshold
    (Anthropic, January 2025). Their weight `sparsity` rises over the whole run: at once, it would kill
    features before they mean anything. With a `target`, it is `(L0 / target − 1)²` that is pressed down, its
    gradient that of the same tanh, so that a run ends near so many features a token.
    """

    sparsity: float = 10.0
    target: float | None = None
    c: float = 4.0
    push: float = 3e-6
    bandwidth: float = 2.0
    first_threshold: float = 0.1
    fires: float = 10_000.0
    """At first each feature fires on `fires / d_sae` of the tokens, at most on a half."""

    def learning_rates(self, d_in: int, d_sae: int) -> LearningRates:  # noqa: ARG002
        """That of Gao et al. 2024."""
        return _check_finite(d_sae)

    def initial_weights(self, first: Rows, d_sae: int, generator: torch.Generator) -> Weights:
        """Uniform rows, a shrunken transpose, and biases at which all features fire equally often."""
        d = first.shape[1]
        rows = ((torch.rand(d_sae, d, generator=generator) * 2 - 1) / math.sqrt(d)).to(first.device)
        W_enc = rows.T * (d / d_sae)
        share = min(0.5, self.fires / d_sae)
        b_enc = self.first_threshold - torch.quantile(first[:4096] @ W_enc, 1 - share, dim=0)
        log = torch.full((d_sae,), math.log(self.first_threshold), device=first.device)
        zeros = first.new_zeros(d)
        return Weights(W_enc.contiguous(), b_enc, rows, zeros, subtracts=False, unit=False, log_threshold=log)

    def loss_terms(self, weights: Weights, x: Rows, now: Schedule) -> LossTerms:
        """Squared error and the sparsity's term."""
        assert weights.log_threshold is not None
        pre, threshold = weights.pre(x), weights.log_threshold.exp()
        f: Tensor = _Jump.apply(pre, threshold, self.bandwidth)  # type: ignore[assignment]
        error = (x - weights.decode(f)).pow(2).sum(1).mean()
        weight = self.sparsity * (now.step + 1) / now.steps
        lengths = weights.lengths
        below = (torch.relu(threshold - pre) * lengths).sum(1).mean()
        dense = torch.tanh(self.c * f * lengths).sum(1).mean()
        if self.target is not None:
            l0 = dense + ((f.detach() > 0).sum(1).float().mean() - dense).detach()
            dense = (l0 / self.target - 1).pow(2)
        return LossTerms(error + weight * dense + self.push * below, error, _counts(f))

    def to_sae(self, weights: Weights, scale: float, held_out: Rows) -> SAE:  # noqa: ARG002
        """Its own thresholds."""
        return weights.to_sae(scale)


def _check_finite(d_sae: int) -> LearningRates:
    return LearningRates(min(1e-3, 2e-4 * math.sqrt(16384 / d_sae)))


def _counts(a: Activations) -> Float[Tensor, " d_sae"]:
    return (a.detach() > 0).sum(0).float()


def _kth(pre: Activations, k: int) -> Cut:
    """The k+1-th largest of each row, so that k are above it."""
    return pre.topk(k + 1, dim=1, sorted=False).values.amin(1, keepdim=True) if k < pre.shape[1] else pre.new_zeros(())


def _window(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return ((pre - threshold).abs() < bandwidth / 2).to(pre.dtype) / bandwidth


class _Jump(torch.autograd.Function):
    """`pre · 1[pre > θ]`; the step's gradient is a rectangle around θ, for θ and for what is read."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where((pre > threshold) & (pre > 0), pre, 0.0)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        (gradient,), (pre, threshold) = grad_outputs, ctx.saved_tensors
        through = gradient * threshold * _window(pre, threshold, ctx.bandwidth)
        return gradient * (pre > threshold) + through, -through.sum(0), None
