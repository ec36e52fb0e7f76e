"""Weights in 8 or 4 bits, through torch's own operators; activations are never quantized, so no row depends on others.

One token's matrices are read once from memory for each step, so their size decides the speed of few rows. Prompts, with
many rows, are computed with the model's own weights.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Packed = Literal["int8", "int4", "lossless"]
"""`lossless`: 4 bits for the matrices that were on such a grid when they were published, 8 bits for the others."""
Product = Callable[[Float[Tensor, "rows d_in"]], Float[Tensor, "rows d_out"]]
"""Multiplies rows in bfloat16 by one matrix."""
GROUP = 32
"""Weights that share a scale and a zero in 4 bits, as in GGUF's Q4_1."""
LOSSLESS = 0.01
"""Largest error of a matrix in 4 bits, relative to its size, at which it was on such a grid already: rounding
scales to bfloat16 stays below it, and matrices of random weights lose more than 0.03.
"""


def packed(weight: Float[Tensor, "d_out d_in"], kind: Packed) -> Product:
    """Return the product with a matrix in 8 bits (a scale for each output) or 4 bits (for each 32 inputs of it)."""
    if kind == "int8" or (kind == "lossless" and not _has_int4(*weight.shape)):
        return _in_int8(weight)
    levels, scale_and_zero = _to_int4(weight)
    if kind == "lossless" and _error(weight, levels, scale_and_zero) > LOSSLESS:
        return _in_int8(weight)
    blocks = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
    return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, blocks, GROUP, scale_and_zero)


def is_available(kind: Packed, d_out: int = 64, d_in: int = 64) -> bool:
    """Whether this build of torch has the operator, for a matrix of this shape."""
    try:
        packed(torch.zeros(d_out, d_in), kind)(torch.zeros(1, d_in, dtype=torch.bfloat16))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return kind != "int4" or _has_int4(d_out, d_in)


def _has_int4(d_out: int, d_in: int) -> bool:
    return not (d_in % GROUP or d_out % 16) and hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")


def _error(weight: Tensor, levels: Tensor, scale_and_zero: Tensor) -> float:
    """Root mean square of what a matrix loses in 4 bits, relative to its own."""
    scale, zero = (part.float().T[..., None] for part in scale_and_zero.unbind(-1))
    rounded = (levels.view(len(weight), -1, GROUP) - 8) * scale + zero
    return float((rounded.view_as(weight) - weight.float()).norm() / weight.float().norm().clamp(min=1e-12))


def _in_int8(weight: Tensor) -> Product:
    values, scale = _to_int8(weight)
    return lambda x: torch.ops.aten._weight_int8pack_mm(x, values, scale)


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    weight = weight.float()
    scale = (weight.abs().amax(1) / 127).clamp(min=1e-12).bfloat16()
    return (weight / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def _to_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Levels 0 … 15 `[d_out, d_in]`, and scale and zero of each group `[d_in / 32, d_out, 2]`: (level − 8) · scale + zero.

    The extremes of a group are levels 0 and 15, as in Q4_1: a matrix that comes from such a file is found again.
    """
    groups = weight.float().view(len(weight), -1, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).clamp(min=1e-12)
    levels = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.int32)
    pairs = torch.stack([scale, low + 8 * scale], -1).transpose(0, 1).contiguous()
    return levels.view_as(weight), pairs.bfloat16()
