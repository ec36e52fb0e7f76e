"""SAE weights during training, on inputs scaled so that E‖x‖² = d."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steering.formats.fold import RawSae
from steering.sae import SAE

Rows = Float[Tensor, "rows d_in"]
PIECE = 1 << 19
"""Numbers per piece in which large matrices are processed, so that a piece stays in the cache."""


class Weights(torch.nn.Module):
    """Encoder and decoder; `log_threshold [d_sae]` where thresholds are learnt.

    The encoder is stored by features, as the decoder is, so that a feature's gradient is contiguous.
    """

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
        held: Bool[Tensor, " d_sae"] | None = None,
    ) -> None:
        """`held` rows of the decoder are fixed."""
        super().__init__()
        self.held = held
        self.encoder, self.b_enc = torch.nn.Parameter(W_enc.T.contiguous()), torch.nn.Parameter(b_enc)
        self.W_dec, self.b_dec = torch.nn.Parameter(W_dec), torch.nn.Parameter(b_dec)
        self.log_threshold = None if log_threshold is None else torch.nn.Parameter(log_threshold)
        self.subtracts, self.unit = subtracts, unit
        self._rooms: dict[str, Tensor] = {}

    @staticmethod
    def from_sae(sae: SAE, scale: float) -> "Weights":
        """Return trainable weights of an SAE: unit rows, `b_dec` subtracted from the input, thresholds left to the
        objective.
        """
        b_enc = scale * (sae.b_enc + sae.b_dec @ sae.W_enc)
        return Weights(sae.W_enc, b_enc, sae.W_dec.clone(), scale * sae.b_dec, subtracts=True, unit=True)

    def pre(self, x: Rows) -> Float[Tensor, "rows d_sae"]:
        """Return pre-activations; `b_dec` is subtracted from the input where `subtracts`."""
        return torch.addmm(self.b_enc, x - self.b_dec if self.subtracts else x, self.W_enc)

    def decode(self, a: Float[Tensor, "rows d_sae"]) -> Rows:
        """Return the reconstruction from activations."""
        return a @ self.W_dec + self.b_dec

    def tangent_room(self, name: str, shape: Sequence[int], kind: torch.dtype = torch.float32) -> Tensor:
        """Return a buffer for one step, the same in every step; it is not cleared."""
        held = self._rooms.get(name)
        if held is None or held.shape != torch.Size(shape) or held.dtype != kind:
            held = self._rooms[name] = torch.empty(*shape, dtype=kind, device=self.W_dec.device)
        return held

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """Encoder matrix, one column per feature."""
        return self.encoder.T

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_dec.shape[0]

    @property
    def lengths(self) -> Float[Tensor, " d_sae"]:
        """Norms of the decoder rows."""
        return self.W_dec.norm(dim=1)

    @torch.no_grad()
    def tangent(self) -> None:
        """Where rows have unit norm, project their gradient on the tangent space; set that of fixed rows to zero."""
        if self.held is not None and self.W_dec.grad is not None:
            self.W_dec.grad[self.held] = 0
        if self.unit and self.W_dec.grad is not None:
            step = max(1, PIECE // self.W_dec.shape[1])
            for gradient, rows in zip(self.W_dec.grad.split(step), self.W_dec.split(step), strict=True):
                gradient.addcmul_(rows, (gradient * rows).sum(1, keepdim=True), value=-1)

    @torch.no_grad()
    def project(self) -> None:
        """Where rows have unit norm, normalise them."""
        if self.unit:
            self.W_dec.div_(self.lengths[:, None])

    @torch.no_grad()
    def to_sae(self, scale: float) -> SAE:
        """Return the same function of the raw stream as a JumpReLU SAE; thresholds are 0 where none are learnt."""
        self._rooms.clear()
        if self.unit and self.log_threshold is None:  # nothing to fold, and folding needs several times the memory
            bias = self.b_enc - self.b_dec @ self.W_enc if self.subtracts else self.b_enc
            parts = (self.W_enc, bias / scale, self.W_dec, self.b_dec / scale, torch.zeros_like(bias))
            W_enc, b_enc, W_dec, b_dec, threshold = (part.detach().clone() for part in parts)
            return SAE(W_enc, b_enc, W_dec, b_dec, threshold)
        threshold = 0.0 if self.log_threshold is None else self.log_threshold.exp()
        parts = (self.W_enc, self.b_enc, self.W_dec, self.b_dec)
        return RawSae(*parts, threshold, self.subtracts, scale, scale).normalise().sae
