"""An SAE while it learns, on inputs scaled so that E‖x‖² = d. Knows tensors; nothing of losses or loops."""

import torch
from jaxtyping import Float
from torch import Tensor

from steering.fold import Loose
from steering.sae import SAE

Rows = Float[Tensor, "rows d_in"]


class Weights(torch.nn.Module):
    """Encoder and decoder; `log_threshold [d_sae]` where thresholds are learnt."""

    def __init__(
        self,
        W_enc: Float[Tensor, "d_in d_sae"],
        b_enc: Float[Tensor, " d_sae"],
        W_dec: Float[Tensor, "d_sae d_in"],
        b_dec: Float[Tensor, " d_in"],
        *,
        subtracts: bool,
        unit: bool,
        log_threshold: Float[Tensor, " d_sae"] | None = None,
    ) -> None:
        super().__init__()
        self.W_enc, self.b_enc = torch.nn.Parameter(W_enc), torch.nn.Parameter(b_enc)
        self.W_dec, self.b_dec = torch.nn.Parameter(W_dec), torch.nn.Parameter(b_dec)
        self.log_threshold = None if log_threshold is None else torch.nn.Parameter(log_threshold)
        self.subtracts, self.unit = subtracts, unit

    def pre(self, x: Rows) -> Float[Tensor, "rows d_sae"]:
        """Pre-activations; `b_dec` is taken from the input where `subtracts`."""
        return (x - self.b_dec if self.subtracts else x) @ self.W_enc + self.b_enc

    def decode(self, a: Float[Tensor, "rows d_sae"]) -> Rows:
        """The reconstruction of these activations."""
        return a @ self.W_dec + self.b_dec

    @property
    def lengths(self) -> Float[Tensor, " d_sae"]:
        """Lengths of the decoder's rows."""
        return self.W_dec.norm(dim=1)

    @torch.no_grad()
    def tangent(self) -> None:
        """Where rows have unit length: take from their gradient what would only change that."""
        if self.unit and self.W_dec.grad is not None:
            self.W_dec.grad -= (self.W_dec.grad * self.W_dec).sum(1, keepdim=True) * self.W_dec

    @torch.no_grad()
    def project(self) -> None:
        """Where rows have unit length: bring them back to it."""
        if self.unit:
            self.W_dec.copy_(torch.nn.functional.normalize(self.W_dec, dim=1))

    @torch.no_grad()
    def served(self, scale: float) -> SAE:
        """The same function of the raw stream as a JumpReLU; thresholds 0 where none are learnt."""
        threshold = 0.0 if self.log_threshold is None else self.log_threshold.exp()
        parts = (self.W_enc, self.b_enc, self.W_dec, self.b_dec)
        return Loose(*parts, threshold, self.subtracts, scale, scale).fold().sae
