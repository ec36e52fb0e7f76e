"""Who trains along: nobody, or the other processes of `torchrun`. Knows collectives; nothing of SAEs.

What a batch decides together (where the largest activations begin, who is dead, the variance of what is
left) is decided over all ranks' batches, so that n processes train exactly as one with n times the batch.
"""

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
        """The mean of everybody's value."""
        return self.sum(value) / self.size if self.size > 1 else value

    def sum(self, value: Tensor) -> Tensor:
        """The sum of everybody's value."""
        if self.size > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return value

    def gather(self, values: Tensor) -> Tensor:
        """Everybody's values, one after another; they may be of different lengths."""
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
        """Until everybody is here."""
        if self.size > 1:
            dist.barrier()

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Leave in every parameter the mean of everybody's gradient."""
        if self.size > 1:
            for p in parameters:
                assert p.grad is not None
                dist.all_reduce(p.grad)
                p.grad /= self.size


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def process_group(backend: str = "gloo") -> Iterator[ProcessGroup]:
    """The ranks that `torchrun` started, or this process alone; left when all are done.

    A process that ends without leaving may be aborted by its collectives' threads, which outlive the interpreter.
    """
    if not dist.is_torchelastic_launched():
        yield SINGLE_PROCESS
        return
    dist.init_process_group(backend)
    ranks = ProcessGroup(dist.get_rank(), dist.get_world_size())
    yield ranks
    # Not after an error: the others may be in a collective by then and would never come; `torchrun` ends them.
    ranks.wait()
    dist.destroy_process_group()
