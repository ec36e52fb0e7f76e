"""Training objectives: BatchTopK, TopK, ReLU + L1 and JumpReLU, each with initial weights, loss and conversion to an
SAE.

Inputs have E‖x‖² = d, so that coefficients and thresholds carry over from model to model.
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
"""Learning rate of BatchTopK at 2,048 features."""


class LossTerms(NamedTuple):
    """Loss of one batch, mean squared norm of the residual, and the number of rows on which each feature fired."""

    loss: Tensor
    error: Tensor
    counts: Float[Tensor, " d_sae"]


class Schedule(NamedTuple):
    """Step of the run, tokens for which each feature has not fired, and the ranks of the process group."""

    step: int
    steps: int
    idle: Float[Tensor, " d_sae"]
    ranks: ProcessGroup = SINGLE_PROCESS


class LearningRates(NamedTuple):
    """Learning rate, Adam's betas and schedule."""

    lr: float
    moments: tuple[float, float] = (0.9, 0.999)
    """Adam's betas."""
    biases: float = 1.0
    """Factor on the learning rate of the encoder's and the decoder's biases."""
    decay: float = 0.3
    """Share of the run, at its end, over which the learning rate decays to zero."""


class Objective(Protocol):
    """A sparsity objective."""

    def learning_rates(self, d_in: int, d_sae: int) -> LearningRates:
        """Return the default learning rates."""
        ...

    def initial_weights(self, first: Rows, d_sae: int, generator: torch.Generator) -> Weights:
        """Return the weights before the first step."""
        ...

    def loss_terms(self, weights: Weights, x: Rows, now: Schedule) -> LossTerms:
        """Run the forward pass and return the loss."""
        ...

    def to_sae(self, weights: Weights, scale: float, held_out: Rows) -> SAE:
        """Return the SAE to be served; `held_out` is the raw stream."""
        ...


@dataclass(frozen=True)
class BatchTopK:
    """Keep the `k · rows` largest activations of a batch (Bussmann et al. 2024); AuxK for the dead (Gao et al. 2024).

    Dead features reconstruct the residual; that auxiliary loss is normalised by the residual's variance. From
    `matryoshka` features on, the first 1/16 and the first 1/4 of them have to reconstruct on their own as well, so that
    general features are not absorbed by specific ones (Bussmann et al. 2025).
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
        """Almost sign-gradient descent, with large steps: a tenth of the tokens for the same explained variance.

        Activations are √d times as large as the weights' entries, and so are the biases' steps.
        """
        return LearningRates(LARGE * math.sqrt(2048 / d_sae), (0.0, 0.9), math.sqrt(d_in), decay=1.0)

    def initial_weights(self, first: Rows, d_sae: int, generator: torch.Generator) -> Weights:
        """Random unit decoder rows, the encoder their transpose, the decoder's bias the mean."""
        rows = torch.nn.functional.normalize(torch.randn(d_sae, first.shape[1], generator=generator), dim=1)
        rows = rows.to(first.device)
        silent = torch.zeros(d_sae, device=first.device)
        return Weights(rows.T.clone(), silent, rows, first.mean(0), subtracts=True, unit=True)

    def loss_terms(self, weights: Weights, x: Rows, now: Schedule) -> LossTerms:
        """Squared error over d, plus the auxiliary loss."""
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
        """Return the ends of the prefixes of features that reconstruct on their own (Matryoshka)."""
        return (d_sae // 16, d_sae // 4, d_sae) if d_sae >= self.matryoshka else (d_sae,)

    def threshold(self, pre: Activations, k: int, ranks: ProcessGroup) -> Cut:
        """Return the threshold above which activations are kept."""
        return _largest(pre, k * len(pre), ranks)

    def active(self, batch: EncoderPass, k: int, ranks: ProcessGroup) -> ActiveCode:
        """Return the activations that are kept."""
        return batch.kth_largest(k * len(batch.pre), ranks)

    def to_sae(self, weights: Weights, scale: float, held_out: Rows) -> SAE:
        """Return the SAE with one threshold, at which L0 on `held_out` is `k`."""
        return weights.to_sae(scale).calibrated(held_out, self.k)

    def _auxk_loss(self, batch: EncoderPass, dead: Tensor, left: Rows, ranks: ProcessGroup) -> Tensor:
        """Squared error of the dead features' reconstruction of the residual, over its variance in the whole batch."""
        cut = _kth(batch.pre[:, dead], self.aux_k)
        explained = batch.above(cut, dead).write((batch.pre.shape[1],))[0]
        total = ranks.mean((left - ranks.mean(left.mean(0))).pow(2).sum(1).mean())
        return (left - explained).pow(2).sum(1).mean() / total.clamp_min(1e-9)


@dataclass(frozen=True)
class TopK(BatchTopK):
    """Keep the `k` largest activations of each token (Gao et al. 2024)."""

    def threshold(self, pre: Activations, k: int, ranks: ProcessGroup) -> Cut:  # noqa: ARG002
        """Return the threshold above which activations are kept."""
        return _kth(pre, k)

    def active(self, batch: EncoderPass, k: int, ranks: ProcessGroup) -> ActiveCode:
        """Return the activations that are kept."""
        return batch.above(self.threshold(batch.pre, k, ranks))


class _GaoLearningRates:
    """Learning rates of Gao et al. 2024."""

    def learning_rates(self, d_in: int, d_sae: int) -> LearningRates:  # noqa: ARG002
        """Return the learning rate for this number of features."""
        return LearningRates(min(1e-3, 2e-4 * math.sqrt(16384 / d_sae)))


@dataclass(frozen=True)
class ReluL1(_GaoLearningRates):
    """`E[‖x − x̂‖² + λ Σ f_i ‖d_i‖]`, decoder norms folded on conversion (Templeton et al. 2024, Scaling
    Monosemanticity).

    Decoder rows are initialised with norm 0.1, the encoder is their transpose, and no bias is subtracted from the
    input; λ rises linearly over the first twentieth. Use `lr` 5e-5 and `decay` 0.2, as there; small runs tolerate more.
    """

    l1: float = 5.0
    warmup: float = 0.05

    def initial_weights(self, first: Rows, d_sae: int, generator: torch.Generator) -> Weights:
        """Random decoder rows of norm 0.1."""
        d = first.shape[1]
        rows = 0.1 * torch.nn.functional.normalize(torch.randn(d_sae, d, generator=generator), dim=1)
        rows, zeros = rows.to(first.device), first.new_zeros
        return Weights(rows.T.clone(), zeros(d_sae), rows, zeros(d), subtracts=False, unit=False)

    def loss_terms(self, weights: Weights, x: Rows, now: Schedule) -> LossTerms:
        """Squared error plus the weighted L1 penalty."""
        f = torch.relu(weights.pre(x))
        error = (x - weights.decode(f)).pow(2).sum(1).mean()
        rise = min(1.0, (now.step + 1) / max(1.0, self.warmup * now.steps))
        return LossTerms(error + self.l1 * rise * (f * weights.lengths).sum(1).mean(), error, _counts(f))

    def to_sae(self, weights: Weights, scale: float, held_out: Rows) -> SAE:  # noqa: ARG002
        """Return the SAE with threshold 0: every positive pre-activation fires."""
        return weights.to_sae(scale)


@dataclass(frozen=True)
class JumpReLU(_GaoLearningRates):
    """Thresholds learnt with a straight-through estimator of width `bandwidth` (Rajamanoharan et al. 2024).

    The sparsity loss is `Σ tanh(c·f_i·‖d_i‖)`, with a small loss for features far below their threshold (Anthropic,
    January 2025). Its weight `sparsity` rises linearly over the whole run: a full weight from the start would kill
    features before they are learnt. With a `target`, the loss is `(L0 / target − 1)²`, with the gradient of the same
    tanh, so that a run ends near that L0.
    """

    sparsity: float = 10.0
    target: float | None = None
    c: float = 4.0
    push: float = 3e-6
    bandwidth: float = 2.0
    first_threshold: float = 0.1
    fires: float = 10_000.0
    """At the start, each feature fires on `fires / d_sae` of the tokens, at most on a half."""

    def initial_weights(self, first: Rows, d_sae: int, generator: torch.Generator) -> Weights:
        """Uniform decoder rows, a scaled-down transpose, and biases at which all features fire equally often."""
        d = first.shape[1]
        rows = ((torch.rand(d_sae, d, generator=generator) * 2 - 1) / math.sqrt(d)).to(first.device)
        W_enc = rows.T * (d / d_sae)
        share = min(0.5, self.fires / d_sae)
        b_enc = self.first_threshold - torch.quantile(first[:4096] @ W_enc, 1 - share, dim=0)
        log = torch.full((d_sae,), math.log(self.first_threshold), device=first.device)
        zeros = first.new_zeros(d)
        return Weights(W_enc.contiguous(), b_enc, rows, zeros, subtracts=False, unit=False, log_threshold=log)

    def loss_terms(self, weights: Weights, x: Rows, now: Schedule) -> LossTerms:
        """Squared error plus the sparsity loss."""
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
        """Return the SAE with the learnt thresholds."""
        return weights.to_sae(scale)


def _counts(a: Activations) -> Float[Tensor, " d_sae"]:
    return (a.detach() > 0).sum(0).float()


def _kth(pre: Activations, k: int) -> Cut:
    """Return the k+1-th largest of each row, so that k are above it."""
    return pre.topk(k + 1, dim=1, sorted=False).values.amin(1, keepdim=True) if k < pre.shape[1] else pre.new_zeros(())


def _window(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return ((pre - threshold).abs() < bandwidth / 2).to(pre.dtype) / bandwidth


class _Jump(torch.autograd.Function):
    """`pre · 1[pre > θ]`; the step's gradient is a rectangle around θ, for θ and for the pre-activation."""

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
