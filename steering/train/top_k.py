"""Top-k selection over a batch: thresholds and indices of the largest activations."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steering.train.distributed import ProcessGroup

SAMPLE = 1 << 17
"""Size of the sample from which the threshold is estimated."""
Cut = Float[Tensor, "*rows"]
"""Threshold above which activations are kept: one number, or `[rows, 1]`. Never negative."""


def kth_largest(pre: Float[Tensor, "rows d_sae"], wanted: int, ranks: ProcessGroup) -> Cut:
    """Return the value that `wanted` activations per rank are above, over all ranks' batches.

    It is estimated from a sample, and then computed exactly among the few above the estimate.
    """
    flat = pre.view(-1)
    few = ranks.gather(flat[flat > rough_threshold(pre, wanted)])
    if len(few) <= wanted * ranks.size:
        few = ranks.gather(flat[flat > 0])
    return exact_threshold(few, wanted * ranks.size)


def rough_threshold(pre: Tensor, wanted: int) -> Tensor:
    """Return a value that, most probably, slightly more than `wanted` are above."""
    flat = pre.view(-1)
    sample = flat[:: len(flat) // SAMPLE | 1]  # an odd step, so that all columns are sampled
    many = min(len(sample), round(len(sample) * wanted / len(flat) * 1.2) + 32)
    return sample.topk(many, sorted=False).values.amin()


def exact_threshold(values: Tensor, wanted: int) -> Tensor:
    """Return the value that exactly `wanted` of these are above; 0 if there are fewer."""
    if len(values) <= wanted:
        return values.new_zeros(())
    return values.kthvalue(len(values) - wanted).values.clamp_min(0)


def indices_of_true(on: Bool[Tensor, "rows columns"]) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the true entries. They are rare: blocks of eight are tested first."""
    flat = on.view(-1)
    if len(flat) % 8:
        at = flat.nonzero()[:, 0]
    else:
        eight = flat.view(torch.int64).nonzero()[:, 0]
        inside = flat.view(-1, 8)[eight].nonzero()
        at = eight[inside[:, 0]] * 8 + inside[:, 1]
    return at // on.shape[1], at % on.shape[1]


def indices_above(pre: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the entries above `cut`. The maximum of eight columns each is tested first."""
    if pre.shape[1] % 8:
        return indices_of_true(pre > cut)
    eight = pre.view(len(pre), 8, -1)
    row, at = indices_of_true(eight.amax(1) > cut)
    inside, which = (eight[row, :, at] > cut).nonzero().unbind(1)
    return row[inside], at[inside] + which * eight.shape[2]
