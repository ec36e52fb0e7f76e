"""Where the few largest of many numbers are. Knows tensors; nothing of what they mean."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steering.train.distributed import ProcessGroup

SAMPLE = 1 << 17
"""So many of the numbers show where the largest begin."""
Cut = Float[Tensor, "*rows"]
"""What is above it is kept: one number, or `[rows, 1]`. Never negative."""


def kth_largest(pre: Float[Tensor, "rows d_sae"], wanted: int, ranks: ProcessGroup) -> Cut:
    """The value that `wanted` activations for each rank are above, over all ranks' batches.

    A sample says roughly where it lies; exactly it is then found among the few above that.
    """
    flat = pre.view(-1)
    few = ranks.gather(flat[flat > rough_threshold(pre, wanted)])
    if len(few) <= wanted * ranks.size:
        few = ranks.gather(flat[flat > 0])
    return exact_threshold(few, wanted * ranks.size)


def rough_threshold(pre: Tensor, wanted: int) -> Tensor:
    """What some more than `wanted` are above, most probably."""
    flat = pre.view(-1)
    sample = flat[:: len(flat) // SAMPLE | 1]  # odd, so that it meets all columns
    many = min(len(sample), round(len(sample) * wanted / len(flat) * 1.2) + 32)
    return sample.topk(many, sorted=False).values.amin()


def exact_threshold(values: Tensor, wanted: int) -> Tensor:
    """What exactly `wanted` of these are above; 0 if there are not so many."""
    if len(values) <= wanted:
        return values.new_zeros(())
    return values.kthvalue(len(values) - wanted).values.clamp_min(0)


def indices_of_true(on: Bool[Tensor, "rows columns"]) -> tuple[Tensor, Tensor]:
    """Rows and columns of what is true. It is rare: eight at a time are looked at first."""
    flat = on.view(-1)
    if len(flat) % 8:
        at = flat.nonzero()[:, 0]
    else:
        eight = flat.view(torch.int64).nonzero()[:, 0]
        inside = flat.view(-1, 8)[eight].nonzero()
        at = eight[inside[:, 0]] * 8 + inside[:, 1]
    return at // on.shape[1], at % on.shape[1]


def indices_above(pre: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of what is above. The largest of eight columns each is looked at first."""
    if pre.shape[1] % 8:
        return indices_of_true(pre > cut)
    eight = pre.view(len(pre), 8, -1)
    row, at = indices_of_true(eight.amax(1) > cut)
    inside, which = (eight[row, :, at] > cut).nonzero().unbind(1)
    return row[inside], at[inside] + which * eight.shape[2]
