"""Self-test of the hook inside vLLM: push the residual stream by a known vector and read it back.

The push is as long as the stream itself, and what may be missing follows the type's rounding, so a hook that works
passes in bfloat16 on a stream of any length, and one that does nothing, half, twice or the wrong positions fails in
any type.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steering.sae import SAE

LENGTH, START = 24, 16
"""Tokens of the probe, and the first of them that is pushed. The first tokens of a text are attention sinks in many
models, with a stream that is a hundred times longer than that of others."""
ROUNDINGS = 16
"""Most units of rounding, of a push as long as the stream, by which the stream may differ from what it should be: a
layer's output is rounded, and so is the sum of `hidden` and `residual`, either of which can be longer than the sum."""
LEAST = 1e-3
"""The same share in types that round less than the order of additions changes."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A push along one decoder direction: its row, its length, and the positions that it steers."""

    row: int
    amount: float
    """Raw strength: a multiple of the row as it is stored."""
    direction: Float[Tensor, " d_in"]

    @property
    def span(self) -> tuple[int, int]:
        """Steered positions, from and to."""
        return START, LENGTH

    def added(self, like: Float[Tensor, "time d_in"]) -> Float[Tensor, "time d_in"]:
        """What a hook that works adds to the stream."""
        wanted = torch.zeros_like(like)
        wanted[START:] = self.amount * self.direction
        return wanted


def probe_ids(vocab_size: int) -> list[int]:
    """Token ids from all over the vocabulary: the first hundreds are often marks that no text has."""
    return [vocab_size * (i + 1) // (LENGTH + 1) for i in range(LENGTH)]


def probe_for(sae: SAE, plain: Float[Tensor, "time d_in"]) -> Probe:
    """A push along the longest decoder row, as long as the longest stream among the positions to be pushed."""
    lengths = sae.W_dec.float().norm(dim=1)
    row = int(lengths.argmax())
    longest = float(plain[START:].norm(dim=1).max())
    return Probe(row, longest / float(lengths[row]), sae.W_dec[row].float().cpu())


def moved_as_asked(
    probe: Probe, plain: Float[Tensor, "time d_in"], moved: Float[Tensor, "time d_in"], dtype: torch.dtype
) -> bool:
    """Whether the stream moved by the push at the pushed positions and by nothing elsewhere."""
    allowed = max(LEAST, ROUNDINGS * torch.finfo(dtype).eps)
    wanted = probe.added(plain)
    missing = (moved - plain - wanted).norm(dim=1)
    return bool((missing <= allowed * wanted.norm(dim=1).max()).all())
