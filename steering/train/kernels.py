"""Forward and backward kernels of an SAE over one batch, dense or sparse.

A pass reads a batch once. `above(cut)` and `kth_largest` select activations; the code that they return decodes them. On
a CPU only the encoder's product is dense: of `d_sae` activations a few dozen are kept, and the decoder and both
gradients use no others (Gao et al. 2024, appendix D). Where the CPU multiplies bfloat16, that product only selects
candidates, and those few are then computed exactly. On a GPU dense products are faster up to some hundred thousand
features, and are computed in bfloat16 under autocast.

Tensors as large as the weights are written into preallocated memory: to get 50 MB from the system takes longer than to
fill them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steering.train.distributed import SINGLE_PROCESS, ProcessGroup
from steering.train.top_k import Cut, exact_threshold, indices_above, indices_of_true, kth_largest, rough_threshold
from steering.train.weights import PIECE, Rows, Weights

HALVED = 1 << 18
"""Number of weights from which on the encoder's product is computed in bfloat16, if the CPU has instructions for it."""


class ActiveCode(Protocol):
    """Selected activations of a batch, which can be decoded."""

    @property
    def counts(self) -> Float[Tensor, " d_sae"]:
        """Number of rows on which each feature is selected."""
        ...

    def write(self, ends: Sequence[int]) -> Float[Tensor, "ends rows d_in"]:
        """Return the reconstructions by the features below each of `ends`, without the decoder's bias."""
        ...


class EncoderPass(Protocol):
    """Pre-activations of a batch."""

    pre: Float[Tensor, "rows d_sae"]
    """Positive pre-activations, without gradient."""

    def above(self, cut: Cut, columns: Int[Tensor, " columns"] | None = None) -> ActiveCode:
        """Return the activations above `cut`, of all features or of `columns`."""
        ...

    def kth_largest(self, wanted: int, ranks: ProcessGroup = SINGLE_PROCESS) -> ActiveCode:
        """Return the `wanted` largest of the batch; with several ranks, the `wanted · size` largest over all batches."""
        ...


def encode_batch(weights: Weights, x: Rows) -> EncoderPass:
    """Return a batch's pass: sparse on a CPU, dense on a GPU, whichever is faster there."""
    return SparsePass(weights, x) if x.device.type == "cpu" else DensePass(weights, x)


class DensePass:
    """All products dense; the reference of the sparse pass."""

    def __init__(self, weights: Weights, x: Rows) -> None:
        self._live = torch.relu(weights.pre(x))
        self._weights, self.pre = weights, self._live.detach()

    def above(self, cut: Cut, columns: Int[Tensor, " columns"] | None = None) -> "DenseCode":
        """Return the activations above `cut`."""
        on = self.pre > cut
        if columns is not None:
            among = torch.zeros(on.shape[1], dtype=torch.bool, device=on.device)
            among[columns] = True
            on &= among
        return DenseCode(torch.where(on, self._live, 0.0), self._weights)

    def kth_largest(self, wanted: int, ranks: ProcessGroup = SINGLE_PROCESS) -> "DenseCode":
        """Return the `wanted` largest of the batch."""
        return self.above(kth_largest(self.pre, wanted, ranks))


@dataclass(frozen=True, eq=False)
class DenseCode:
    """Activations, most of them zero."""

    a: Float[Tensor, "rows d_sae"]
    weights: Weights

    @property
    def counts(self) -> Float[Tensor, " d_sae"]:
        """Number of rows on which each feature is selected."""
        return (self.a.detach() > 0).sum(0).float()

    def write(self, ends: Sequence[int]) -> Float[Tensor, "ends rows d_in"]:
        """Return the reconstructions by the features below each of `ends`."""
        W, starts = self.weights.W_dec, (0, *ends[:-1])
        parts = [self.a[:, s:e] @ W[s:e] for s, e in zip(starts, ends, strict=True)]
        return torch.stack(parts).cumsum(0) if len(parts) > 1 else parts[0][None]


class SparsePass:
    """One dense product, the encoder's; everything else uses the selected activations only.

    Valid until the next pass of the same weights and size, which reuses its memory.
    """

    @torch.no_grad()
    def __init__(self, weights: Weights, x: Rows) -> None:
        self._weights = weights
        self._seen = x - weights.b_dec if weights.subtracts else x
        kind = torch.bfloat16 if _halves(weights) else torch.float32
        encoder = weights.encoder
        if kind != torch.float32:
            encoder = weights.tangent_room("encoder", encoder.shape, kind).copy_(encoder)
        out = weights.tangent_room("pre", (len(x), weights.d_sae), kind)
        self.pre = torch.addmm(weights.b_enc.to(kind), self._seen.to(kind), encoder.T, out=out).relu_()

    def above(self, cut: Cut, columns: Int[Tensor, " columns"] | None = None) -> "SparseCode":
        """Return the activations above `cut`; in bfloat16, those equal to it are dropped as well."""
        pre = self.pre if columns is None else self.pre[:, columns]
        row, column = indices_of_true(pre > cut)
        column = column if columns is None else columns[column]
        return self._kept(row, column, self._exactly(row, column))

    def kth_largest(self, wanted: int, ranks: ProcessGroup = SINGLE_PROCESS) -> "SparseCode":
        """Return the `wanted` largest of the batch."""
        if self.pre.dtype == torch.float32:
            return self.above(kth_largest(self.pre, wanted, ranks))
        pre = self.pre.view(torch.int16)  # same order as the non-negative bfloat16 values, and faster to compare
        row, column = indices_above(pre, rough_threshold(pre, wanted))
        if int(ranks.sum(torch.tensor(len(row)))) <= wanted * ranks.size:
            row, column = indices_of_true(pre > 0)
        values = self._exactly(row, column)
        on = values > exact_threshold(ranks.gather(values), wanted * ranks.size)
        return self._kept(row[on], column[on], values[on])

    def _exactly(self, row: Tensor, column: Tensor) -> Tensor:
        w = self._weights
        if self.pre.dtype == torch.float32:
            return self.pre[row, column]
        return _products(self._seen, w.encoder.detach(), row, column).add_(w.b_enc.detach()[column])

    def _kept(self, row: Tensor, column: Tensor, known: Tensor) -> "SparseCode":
        w = self._weights
        code = _Code(row, column, len(self.pre), w.d_sae)
        values: Tensor = _Values.apply(known, self._seen, w.encoder, w.b_enc, w.b_dec, code, w)  # type: ignore[assignment]
        return SparseCode(values, code, w)


@dataclass(frozen=True, eq=False)
class SparseCode:
    """Selected activations, concatenated row by row."""

    values: Float[Tensor, " kept"]
    code: "_Code"
    weights: Weights

    @property
    def counts(self) -> Float[Tensor, " d_sae"]:
        """Number of rows on which each feature is selected."""
        return torch.bincount(self.code.column, minlength=self.code.d_sae).float()

    def write(self, ends: Sequence[int]) -> Float[Tensor, "ends rows d_in"]:
        """Return the reconstructions by the features below each of `ends`."""
        values, code = self.values, self.code
        if len(ends) > 1:
            # Entries are sorted by band of features: each band is a separate block of embedding bags.
            band = torch.bucketize(code.column, torch.tensor(ends), right=True)
            order = torch.sort(band, stable=True).indices
            row = code.row[order] + band[order] * code.rows
            values, code = values[order], replace(code, row=row, column=code.column[order], rows=code.rows * len(ends))
        return _Write.apply(values, self.weights.W_dec, code, self.weights, len(ends))  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class _Code:
    """Indices of the selected activations: `row` is non-decreasing."""

    row: Int[Tensor, " kept"]
    column: Int[Tensor, " kept"]
    rows: int
    d_sae: int


class _Values(torch.autograd.Function):
    """Pre-activations that are already computed; their gradient goes to the encoder columns that produced them."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:  # noqa: ANN401
        known, seen, encoder, _, _, ctx.code, ctx.weights = args
        ctx.save_for_backward(seen, encoder)
        return known

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (gradient,), (seen, encoder), code = grad_outputs, ctx.saved_tensors, ctx.code
        _add_by_column(ctx.weights, "encoder", code, gradient, seen)
        bias = torch.zeros(code.d_sae).index_add_(0, code.column, gradient)
        return None, None, None, bias, (-(bias @ encoder) if ctx.weights.subtracts else None), None, None


class _Write(torch.autograd.Function):
    """Σ of selected values times their decoder rows, for each row of the code; cumulative over `bands`."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:  # noqa: ANN401
        values, W_dec, ctx.code, ctx.weights, bands = args
        ctx.save_for_backward(values, W_dec)
        found = _bags(W_dec, ctx.code.column, _starts(ctx.code.row, ctx.code.rows), values).view(
            bands, -1, len(W_dec[0])
        )
        for before, after in pairwise(found):
            after += before
        return found

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (gradient,), (values, W_dec), code = grad_outputs, ctx.saved_tensors, ctx.code
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        for after, before in pairwise(list(gradient)[::-1]):
            before += after
        gradient = gradient.view(code.rows, -1)
        _add_by_column(ctx.weights, "W_dec", code, values, gradient)
        return _products(gradient, W_dec, code.row, code.column), None, None, None, None


def _add_by_column(weights: Weights, name: str, code: _Code, values: Tensor, table: Float[Tensor, "rows d_in"]) -> None:
    """Add `codeᵀ @ table`, with these values in the code, to a parameter's gradient, in pieces that fit into the cache."""
    column, order = torch.sort(code.column, stable=True)
    row, values, starts = code.row[order], values[order], _starts(column, code.d_sae + 1)
    parameter = weights.get_parameter(name)
    fresh = parameter.grad is None
    if parameter.grad is None:
        parameter.grad = weights.tangent_room(f"{name}.grad", parameter.shape)
    step = max(1, PIECE // table.shape[1])
    ends = [*starts[::step].tolist(), len(column)]
    for at, first, last in zip(range(0, code.d_sae, step), ends, ends[1:], strict=False):
        if first == last and not fresh:
            continue
        into = parameter.grad[at : at + step]
        bags = _bags(table, row[first:last], starts[at : at + len(into)] - first, values[first:last])
        into.copy_(bags) if fresh else into.add_(bags)


def _products(one: Tensor, other: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return `one[row] · other[column]` of each pair, without gathering either; `row` is non-decreasing."""
    one, starts = one.contiguous(), _starts(row, len(one))
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(one, other, column, starts, row, 0, -1)


def _bags(table: Tensor, index: Tensor, starts: Tensor, values: Tensor) -> Tensor:
    return torch.nn.functional.embedding_bag(index, table, starts, mode="sum", per_sample_weights=values)


def _starts(rising: Int[Tensor, " kept"], n: int) -> Int[Tensor, " n"]:
    return torch.searchsorted(rising, torch.arange(n))


def _halves(weights: Weights) -> bool:
    return weights.encoder.numel() >= HALVED and torch.cpu._is_avx512_bf16_supported()
