"""Folding: convert an SAE of any scale, bias convention and row norm to a JumpReLU with unit decoder rows.

    a = s_out⁻¹·n·pre,   W_enc ← s_in·n/s_out·W_enc,   θ ← n/s_out·θ,   n = ‖W_dec‖ per row

Where a token's mean is subtracted from the input, that is folded into W_enc: (x − mean x)·w = x·(w − mean w).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steering.sae import SAE, Scaling


class Folded(NamedTuple):
    """A folded SAE, and the length in the stream of an activation of 1 before folding, `[d_sae]`."""

    sae: SAE
    unit: Float[Tensor, " d_sae"]


@dataclass(frozen=True, eq=False)
class RawSae:
    """An SAE as published: `d_sae` rows in `W_dec`, everything else to be folded."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]
    threshold: Tensor | float = 0.0
    """Pre-activations up to this are dropped; one for each feature, or one for all."""
    subtracts: bool = False
    """Whether the encoder's input is `x − b_dec`."""
    scale_in: float = 1.0
    """Factor on the stream before the encoder."""
    scale_out: float = 1.0
    """Divisor of the reconstruction."""
    by_length: bool = False
    """Whether the threshold is compared with pre · ‖W_dec‖."""
    centred: bool = False
    """Whether the encoder's input is the stream without its mean."""
    scaling: Scaling = "none"
    """By what each token is divided before the encoder, and its reconstruction multiplied."""

    def normalise(self) -> Folded:
        """Return the same function of the raw stream, with decoder rows of unit norm.

        A decoder row of norm 0 has no effect: its feature is kept, at its index, and never fires.
        """
        W_enc, b_enc, W_dec, b_dec = (t.double() for t in (self.W_enc, self.b_enc, self.W_dec, self.b_dec))
        rows, length = _unit_rows(W_dec)
        n = length / self.scale_out
        bias = b_enc - b_dec @ W_enc if self.subtracts else b_enc
        threshold = torch.as_tensor(self.threshold, dtype=torch.float64).expand(len(length)).clamp_min(0)
        if self.centred or self.scaling == "spread":
            W_enc = W_enc - W_enc.mean(0)
        sae = SAE(
            W_enc=(W_enc * (self.scale_in * n)).float(),
            b_enc=(bias * n).float(),
            W_dec=rows.float(),
            b_dec=(b_dec / self.scale_out).float(),
            threshold=(threshold / self.scale_out if self.by_length else threshold * n).float(),
            scaling=self.scaling,
        )
        return Folded(sae, (torch.ones_like(n) / self.scale_out if self.by_length else n).float())


def fold_directions(W_dec: Float[Tensor, "d_sae d_in"], *, scale_out: float = 1.0, by_length: bool = False) -> Folded:
    """Return a decoder alone, with rows of unit norm."""
    rows, length = _unit_rows(W_dec.double())
    unit = torch.ones_like(length) if by_length else length
    return Folded(SAE.directions(rows.float()), (unit / scale_out).float())


def _unit_rows(W_dec: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of unit norm and their former norms; a row of norm 0 becomes the first unit vector."""
    length = W_dec.norm(dim=1)
    first = torch.nn.functional.one_hot(torch.tensor(0), W_dec.shape[1]).double()
    return torch.where(length[:, None] > 0, W_dec / length.clamp_min(1e-300)[:, None], first), length
