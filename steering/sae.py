"""Sparse autoencoder: encode, decode, load and save, in SAELens' `jumprelu` layout.

`a = pre · 1[pre > s·threshold]` with `pre = x W_enc + s·b_enc`, and `x̂ = a W_dec + s·b_dec`: a JumpReLU SAE
(Rajamanoharan et al. 2024), whatever activation function it was trained with. Mostly s is 1. Some SAEs were trained on
tokens that were each divided by a scale; then s(x) is that scale. The SAE is linear but for it, so an activation
remains a length in the stream.

An SAE whose activations are not computed by one product with the stream is kept as directions only: they can be added
to the stream, but not read from it.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from steering.errors import BadBundle, SteeringError
from steering.files import atomic_draft, write_atomic

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
PARTS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
DIRECTIONS = "directions"
"""Value of `architecture` on disk of an SAE without an encoder: `W_dec` is all that it has."""
Scaling = Literal["none", "length", "spread"]
"""What s(x) is: 1, ‖x‖/√d, or the standard deviation of x, whose mean is then left out of the pre-activation."""
NORMALISED: dict[str | None, Scaling] = {
    "none": "none",
    None: "none",
    "expected_average_only_in": "none",  # a constant, folded into the weights or still to be folded
    "constant_norm_rescale": "length",
    "layer_norm": "spread",  # but for the 1e-5, which SAELens adds to the standard deviation only in the division
}
"""SAELens' values of `normalize_activations`; SAELens computes the same function."""
NAMED: dict[Scaling, str] = {"none": "none", "length": "constant_norm_rescale", "spread": "layer_norm"}
ROWS = 4096


@dataclass(frozen=True, eq=False)
class SAE:
    """Weights of one SAE; rows of `W_dec` have unit length, so an activation is a length in the stream."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]
    threshold: Float[Tensor, " d_sae"]
    scaling: Scaling = "none"
    reads: bool = True
    """Whether it has an encoder; else it is directions only."""

    @staticmethod
    def directions(W_dec: Float[Tensor, "d_sae d_in"]) -> "SAE":
        """Return an SAE of directions only; the encoder's parts are zeros that take no memory."""
        m, d = W_dec.shape
        zero = W_dec.new_zeros(1)
        return SAE(zero.expand(d, m), zero.expand(m), W_dec, zero.expand(d), zero.expand(m), reads=False)

    @property
    def d_in(self) -> int:
        """Width of the residual stream."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_dec.shape[0]

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """Return the activation of every feature; most are zero. Raises SteeringError if the SAE is directions only."""
        self.check_reads()
        b_enc, threshold = at_scale(x, self.scaling, self.b_enc, self.threshold)
        pre = x @ self.W_enc + b_enc
        return torch.where(pre > threshold, pre, 0.0)

    def decode(self, a: Float[Tensor, "*n d_sae"], x: Float[Tensor, "*n d_in"] | None = None) -> Tensor:
        """Return the reconstruction from activations; `x`, the input of `encode`, gives the scale where tokens are
        scaled.
        """
        if self.scaling == "none":
            return a @ self.W_dec + self.b_dec
        if x is None:
            raise ValueError("this SAE scales each token; give the stream that was read (`x`) as well")
        (b_dec,) = at_scale(x, self.scaling, self.b_dec)
        middle = x.mean(-1, keepdim=True) if self.scaling == "spread" else 0.0
        return a @ self.W_dec + b_dec + middle

    def reconstruct(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
        """Return the reconstruction of `x`."""
        return self.decode(self.encode(x), x)

    def only(self, rows: Int[Tensor, " rows"]) -> "SAE":
        """Return an SAE of these features alone, in this order."""
        parts = {"W_enc": self.W_enc[:, rows], "b_enc": self.b_enc[rows], "threshold": self.threshold[rows]}
        return replace(self, W_dec=self.W_dec[rows], **parts)

    @torch.no_grad()
    def calibrated(self, rows: Float[Tensor, "rows d_in"], k: float) -> "SAE":
        """Return the SAE with the one threshold at which its L0 on these rows is `k` features per token."""
        self.check_reads()
        wanted, kept, floor = int(k * len(rows)), rows.new_zeros(0), rows.new_zeros(())
        for x in rows.split(ROWS):
            pre = x @ self.W_enc + self.b_enc if self.scaling == "none" else self._normalised(x)
            kept = torch.cat([kept, pre[pre > floor]])
            if len(kept) > wanted:
                kept = kept.topk(wanted + 1, sorted=False).values
                floor = kept.min()
        last = kept.topk(min(2, len(kept)), largest=False).values  # the threshold is between two values, not on one
        cut = last.mean() if len(kept) > wanted else floor
        return replace(self, threshold=cut.expand(self.d_sae).clone())

    def _normalised(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """Return pre-activations divided by each token's scale: what `threshold` is compared with."""
        return x @ self.W_enc / scale_of(x, self.scaling).clamp_min(1e-12) + self.b_enc

    def typical_scale(self, norm: float) -> float:
        """Return approximately s(x) for a stream of length `norm`."""
        return 1.0 if self.scaling == "none" else norm / math.sqrt(self.d_in)

    def check_reads(self) -> None:
        """Raise SteeringError if the SAE is directions only."""
        if not self.reads:
            raise SteeringError(
                "this SAE is directions only: its features can be pushed along (mode 'add'), "
                "but their activations do not depend on the stream alone and cannot be read"
            )

    @property
    def learns(self) -> bool:
        """Whether it can be trained further."""
        return self.reads and self.scaling == "none"

    def check_learns(self) -> None:
        """Raise SteeringError if it cannot be trained further."""
        self.check_reads()
        if not self.learns:
            raise SteeringError(
                f"this SAE divides each token by its own {self.scaling} (SAELens' {NAMED[self.scaling]}), which training "
                "does not support; serve or measure this SAE, or train a new one"
            )

    def to(self, device: torch.device | str) -> "SAE":
        """Return the same weights on another device."""
        if not self.reads:
            return SAE.directions(self.W_dec.to(device))
        return replace(self, **{k: v.to(device) for k, v in _tensors(self).items()})

    def save(
        self,
        folder: Path,
        *,
        hook: str,
        model: str,
        about: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Write `cfg.json` and the weights atomically: a reader sees the old files or the new ones.

        `dtype` is that of encoder and decoder on disk; biases and thresholds stay float32.
        """
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "architecture": "jumprelu" if self.reads else DIRECTIONS,
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            "dtype": str(dtype).removeprefix("torch."),
            "device": "cpu",
            "apply_b_dec_to_input": False,
            "normalize_activations": NAMED[self.scaling],
            "reshape_activations": "none",
            "metadata": {"sae_lens_version": "6.0.0", "model_name": model, "hook_name": hook, **(about or {})},
        }
        with atomic_draft(folder / WEIGHTS) as draft:
            save_file(
                {k: v.to(dtype if v.ndim == 2 else v.dtype).contiguous().cpu() for k, v in _tensors(self).items()},
                draft,
            )
        write_atomic(folder / CONFIG, json.dumps(config, indent=1) + "\n")

    @staticmethod
    def load(folder: Path, *, device: torch.device | str = "cpu") -> "SAE":
        """Load an SAE. Raises BadBundle with what was expected, if a file is missing, damaged or of the wrong shape."""
        try:
            config = json.loads((folder / CONFIG).read_text())
            tensors = load_file(folder / WEIGHTS)
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            raise BadBundle(f"cannot read an SAE from {str(folder)!r}: {error}") from error
        if not isinstance(config, dict):
            raise BadBundle(f"{CONFIG} in {str(folder)!r} must hold an object, not {type(config).__name__}")
        if (kind := config.get("architecture")) == DIRECTIONS:
            return SAE.directions(_checked(tensors, folder, ("W_dec",))["W_dec"]).to(device)
        if kind != "jumprelu":
            raise BadBundle(f"{str(folder)!r} holds a {kind!r} SAE; only 'jumprelu' is served")
        if config.get("apply_b_dec_to_input", True):
            raise BadBundle(f"{str(folder)!r} subtracts b_dec from its input; fold it into b_enc first")
        if (normal := config.get("normalize_activations")) not in [*NORMALISED]:
            raise BadBundle(
                f"{str(folder)!r} normalises activations by {normal!r}; known are {', '.join(NAMED.values())}"
            )
        W_enc, b_enc, W_dec, b_dec, threshold = _checked(tensors, folder, PARTS).values()
        sae = SAE(W_enc, b_enc, W_dec, b_dec, threshold, NORMALISED[normal])
        if sae.scaling == "spread" and sae.W_enc.mean(0).abs().max() > 1e-4 * sae.W_enc.abs().max():
            raise BadBundle(
                f"{str(folder)!r} reads the mean of a token; `tiller sae import` folds the mean into the weights"
            )
        return sae.to(device)


def scale_of(x: Float[Tensor, "*n d_in"], scaling: Scaling) -> Float[Tensor, "*n 1"]:
    """Return s(x) of each token."""
    if scaling == "length":
        return x.norm(dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
    if scaling == "spread":
        return x.std(dim=-1, keepdim=True) + 1e-5
    return torch.ones_like(x[..., :1])


def at_scale(x: Float[Tensor, "*n d_in"], scaling: Scaling, *parts: Tensor) -> tuple[Tensor, ...]:
    """Return biases or thresholds for each token of `x`: unchanged, or times the token's scale."""
    if scaling == "none":
        return parts
    s = scale_of(x, scaling)
    return tuple(s * part for part in parts)


def _tensors(sae: SAE) -> dict[str, Tensor]:
    return {k: getattr(sae, k) for k in (PARTS if sae.reads else ("W_dec",))}


def _checked(tensors: dict[str, Tensor], folder: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    if missing := [n for n in names if n not in tensors]:
        raise BadBundle(f"the SAE in {str(folder)!r} lacks {', '.join(missing)}")
    if tensors["W_dec"].ndim != 2 or not tensors["W_dec"].numel():
        raise BadBundle(f"W_dec in {str(folder)!r} must be [d_sae, d_in], not {list(tensors['W_dec'].shape)}")
    m, d = tensors["W_dec"].shape
    wanted = {"W_enc": (d, m), "b_enc": (m,), "W_dec": (m, d), "b_dec": (d,), "threshold": (m,)}
    for name in names:
        if tuple(tensors[name].shape) != (shape := wanted[name]):
            raise BadBundle(f"{name} in {str(folder)!r} must be {list(shape)}, not {list(tensors[name].shape)}")
    for name in names:
        if not torch.isfinite(tensors[name]).all():
            raise BadBundle(f"{name} in {str(folder)!r} holds NaN or infinity")
    norms = tensors["W_dec"].float().norm(dim=1)
    if (norms - 1).abs().max() > 1e-2:
        raise BadBundle(f"rows of W_dec in {str(folder)!r} must have length 1; they reach {norms.max():.3g}")
    return {n: tensors[n].float() for n in names}
