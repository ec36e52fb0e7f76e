"""An SAE of any scale, orientation of bias and length of rows, folded into the one form that is served.

Knows the arithmetic; nothing of files or of training:

    a = s_out⁻¹·n·pre,   W_enc ← s_in·n/s_out·W_enc,   θ ← n/s_out·θ,   n = ‖W_dec‖ per row

Where a token's mean is taken from it before it is read, that goes into W_enc: (x − mean x)·w = x·(w − mean w).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steering.sae import SAE, Scaling


class Folded(NamedTuple):
    """An SAE in the served form, and how long one of its former activations is in the stream, `[d_sae]`."""

    sae: SAE
    unit: Float[Tensor, " d_sae"]


@dataclass(frozen=True, eq=False)
class RawSae:
    """An SAE as somebody else keeps it: `d_sae` rows in `W_dec`, everything else to be folded."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]
    threshold: Tensor | float = 0.0
    """Pre-activations up to here are dropped; one for each feature, or one for all."""
    subtracts: bool = False
    """Whether the encoder sees `x − b_dec`."""
    scale_in: float = 1.0
    """What the stream is multiplied by before it is read."""
    scale_out: float = 1.0
    """What the reconstruction is divided by."""
    by_length: bool = False
    """Whether the threshold is compared with pre · ‖W_dec‖."""
    scaling: Scaling = "none"
    """What each token is divided by before it is read, and its reconstruction multiplied by."""

    def normalise(self) -> Folded:
        """The same function of the raw stream, with decoder rows of length 1.

        A decoder row of length 0 never writes anything: its feature is kept, at its index, and never fires.
        """
        W_enc, b_enc, W_dec, b_dec = (t.double() for t in (self.W_enc, self.b_enc, self.W_dec, self.b_dec))
        rows, length = _unit_rows(W_dec)
        n = length / self.scale_out
        bias = b_enc - b_dec @ W_enc if self.subtracts else b_enc
        threshold = torch.as_tensor(self.threshold, dtype=torch.float64).expand(len(length)).clamp_min(0)
        if self.scaling == "spread":
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
    """A decoder alone, its rows brought to length 1."""
    rows, length = _unit_rows(W_dec.double())
    unit = torch.ones_like(length) if by_length else length
    return Folded(SAE.directions(rows.float()), (unit / scale_out).float())


def _unit_rows(W_dec: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1 and what their lengths were; one of length 0 points anywhere."""
    length = W_dec.norm(dim=1)
    first = torch.nn.functional.one_hot(torch.tensor(0), W_dec.shape[1]).double()
    return torch.where(length[:, None] > 0, W_dec / length.clamp_min(1e-300)[:, None], first), length
