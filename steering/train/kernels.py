"""Forward and backward of weights over one batch, dense or sparse. Knows tensors; nothing of losses.

A pass reads a batch once. `keep(cut)` says which activations count; what comes back writes them into the
stream. On a CPU only the encoder's product is dense: of `d_sae` activations a few dozen are kept, and
decoder and both gradients touch no others (Gao et al. 2024, appendix D). On a GPU dense products are
faster up to some hundred thousand features, and are taken in bfloat16 where autocast says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steering.train.weights import Rows, Weights

Cut = Float[Tensor, "*rows"]
"""Activations above it are kept: one number, or `[rows, 1]`. Never negative."""


class Kept(Protocol):
    """Some activations of a batch, written through the decoder."""

    @property
    def counts(self) -> Float[Tensor, " d_sae"]:
        """On how many rows each feature is kept."""
        ...

    def write(self, ends: Sequence[int]) -> Float[Tensor, "ends rows d_in"]:
        """The reconstruction by the features below each of `ends`, without the decoder's bias."""
        ...


class Pass(Protocol):
    """What a batch does to weights."""

    pre: Float[Tensor, "rows d_sae"]
    """Positive pre-activations, without gradient."""

    def keep(self, cut: Cut, columns: Int[Tensor, " columns"] | None = None) -> Kept:
        """The activations above `cut`, of all features or of `columns`."""
        ...


def read(weights: Weights, x: Rows) -> Pass:
    """A batch's pass, by whichever way is faster on its device."""
    return Sparse(weights, x) if x.device.type == "cpu" else Dense(weights, x)


class Dense:
    """All products whole; the reference of the other."""

    def __init__(self, weights: Weights, x: Rows) -> None:
        self._live = torch.relu(weights.pre(x))
        self._weights, self.pre = weights, self._live.detach()

    def keep(self, cut: Cut, columns: Int[Tensor, " columns"] | None = None) -> "DenseKept":
        """The activations above `cut`."""
        on = self.pre > cut
        if columns is not None:
            among = torch.zeros(on.shape[1], dtype=torch.bool, device=on.device)
            among[columns] = True
            on &= among
        return DenseKept(torch.where(on, self._live, 0.0), self._weights)


@dataclass(frozen=True, eq=False)
class DenseKept:
    """Activations, most of them zero."""

    a: Float[Tensor, "rows d_sae"]
    weights: Weights

    @property
    def counts(self) -> Float[Tensor, " d_sae"]:
        """On how many rows each feature is kept."""
        return (self.a.detach() > 0).sum(0).float()

    def write(self, ends: Sequence[int]) -> Float[Tensor, "ends rows d_in"]:
        """The reconstruction by the features below each of `ends`."""
        W, starts = self.weights.W_dec, (0, *ends[:-1])
        parts = [self.a[:, s:e] @ W[s:e] for s, e in zip(starts, ends, strict=True)]
        return torch.stack(parts).cumsum(0) if len(parts) > 1 else parts[0][None]


class Sparse:
    """One dense product, the encoder's; everything else by the activations that are kept."""

    def __init__(self, weights: Weights, x: Rows) -> None:
        with torch.no_grad():
            self.pre = weights.pre(x).relu_()
        self._weights, self._x = weights, x

    def keep(self, cut: Cut, columns: Int[Tensor, " columns"] | None = None) -> "SparseKept":
        """The activations above `cut`."""
        w, pre = self._weights, self.pre if columns is None else self.pre[:, columns]
        flat = (pre > cut).view(-1).nonzero()[:, 0]
        row, column = flat // pre.shape[1], flat % pre.shape[1]
        column = column if columns is None else columns[column]
        code = _Code(row, column, len(pre), w.W_dec.shape[0])
        known = pre.reshape(-1)[flat]
        values: Tensor = _Values.apply(known, self._x, w.encoder, w.b_enc, w.b_dec, code, w.subtracts)  # type: ignore[assignment]
        return SparseKept(values, code, w)


@dataclass(frozen=True, eq=False)
class SparseKept:
    """Kept activations one after another, row by row."""

    values: Float[Tensor, " kept"]
    code: "_Code"
    weights: Weights

    @property
    def counts(self) -> Float[Tensor, " d_sae"]:
        """On how many rows each feature is kept."""
        return torch.bincount(self.code.column, minlength=self.code.d_sae).float()

    def write(self, ends: Sequence[int]) -> Float[Tensor, "ends rows d_in"]:
        """The reconstruction by the features below each of `ends`."""
        if len(ends) == 1:
            return _Write.apply(self.values, self.weights.W_dec, self.code)[None]  # type: ignore[index]
        # Entries of one band of features after those of another: each band is a block of bags of its own.
        band = torch.bucketize(self.code.column, torch.tensor(ends), right=True)
        order = torch.sort(band, stable=True).indices
        code, rows = self.code.taken(order), self.code.rows
        code = replace(code, row=code.row + band[order] * rows, rows=rows * len(ends))
        parts: Tensor = _Write.apply(self.values[order], self.weights.W_dec, code)  # type: ignore[assignment]
        return parts.view(len(ends), rows, -1).cumsum(0)


@dataclass(frozen=True, eq=False)
class _Code:
    """Where the kept activations are: `row` never falls."""

    row: Int[Tensor, " kept"]
    column: Int[Tensor, " kept"]
    rows: int
    d_sae: int

    def taken(self, order: Int[Tensor, " kept"]) -> "_Code":
        return replace(self, row=self.row[order], column=self.column[order])


class _Values(torch.autograd.Function):
    """Pre-activations that are known already; their gradient goes to the encoder's columns that they used."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:  # noqa: ANN401
        known, x, encoder, _, b_dec, ctx.code, ctx.subtracts = args
        ctx.save_for_backward(x, encoder, b_dec)
        return known

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (gradient,), (x, encoder, b_dec), code = grad_outputs, ctx.saved_tensors, ctx.code
        seen = x - b_dec if ctx.subtracts else x
        columns = _by_column(code, gradient, seen)
        bias = torch.zeros(code.d_sae).index_add_(0, code.column, gradient)
        return None, None, columns, bias, (-(bias @ encoder) if ctx.subtracts else None), None, None


class _Write(torch.autograd.Function):
    """Σ of kept values times their decoder rows, for each row of the code."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:  # noqa: ANN401
        values, W_dec, ctx.code = args
        ctx.save_for_backward(values, W_dec)
        return _bags(W_dec, ctx.code.column, _starts(ctx.code.row, ctx.code.rows), values)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (gradient,), (values, W_dec), code = grad_outputs, ctx.saved_tensors, ctx.code
        gradient = gradient.contiguous()
        starts = _starts(code.row, code.rows)
        back = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            gradient, W_dec, code.column, starts, code.row, 0, -1
        )
        return back, _by_column(code, values, gradient), None


def _by_column(code: _Code, values: Tensor, table: Float[Tensor, "rows d_in"]) -> Float[Tensor, "d_sae d_in"]:
    """`codeᵀ @ table`, with these values in the code."""
    column, order = torch.sort(code.column, stable=True)
    return _bags(table, code.row[order], _starts(column, code.d_sae), values[order])


def _bags(table: Tensor, index: Tensor, starts: Tensor, values: Tensor) -> Tensor:
    return torch.nn.functional.embedding_bag(index, table, starts, mode="sum", per_sample_weights=values)


def _starts(rising: Int[Tensor, " kept"], n: int) -> Int[Tensor, " n"]:
    return torch.searchsorted(rising, torch.arange(n))
