"""Distributed data-parallel training: collectives over the processes of `torchrun`, or a single process.

Statistics of a batch (the threshold of the largest activations, dead features, the variance of the residual) are
computed over all ranks' batches, so that n processes train exactly as one with n times the batch.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroup:
    """`size` processes, of which this is number `rank`."""

    rank: int = 0
    size: int = 1

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over ranks."""
        return self.sum(value) / self.size if self.size > 1 else value

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over ranks."""
        if self.size > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return value

    def gather(self, values: Tensor) -> Tensor:
        """Return the values of all ranks, concatenated; they may be of different lengths."""
        if self.size == 1:
            return values
        lengths = [torch.zeros(1, dtype=torch.long, device=values.device) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(values)], device=values.device))
        longest = max(int(n) for n in lengths)
        padded = torch.nn.functional.pad(values, (0, longest - len(values)))
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(n)] for part, n in zip(parts, lengths, strict=True)])

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if self.size > 1:
            dist.barrier()

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace every parameter's gradient by its mean over ranks."""
        if self.size > 1:
            for p in parameters:
                assert p.grad is not None
                dist.all_reduce(p.grad)
                p.grad /= self.size


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def process_group(backend: str = "gloo") -> Iterator[ProcessGroup]:
    """Yield the ranks that `torchrun` started, or a single process; on exit, wait for all and destroy the group.

    A process that exits without destroying it may be aborted by its collectives' threads, which outlive the
    interpreter.
    """
    if not dist.is_torchelastic_launched():
        yield SINGLE_PROCESS
        return
    dist.init_process_group(backend)
    ranks = ProcessGroup(dist.get_rank(), dist.get_world_size())
    yield ranks
    # Not after an error: the other ranks may be in a collective and never arrive; `torchrun` ends them.
    ranks.wait()
    dist.destroy_process_group()
    gc.collect()  # what still refers to the group keeps its threads; in a finalizing interpreter they abort the process
