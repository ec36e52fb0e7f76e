"""The sparse autoencoder as it is served. Knows tensors and one folder; nothing of models or training.

`a = pre · 1[pre > threshold]` with `pre = x W_enc + b_enc`, and `x̂ = a W_dec + b_dec`: a JumpReLU
(Rajamanoharan et al. 2024), whatever it was trained as. On disk it is SAELens' `jumprelu` layout.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from steering.errors import BadBundle

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"


@dataclass(frozen=True, eq=False)
class SAE:
    """Weights of one SAE; rows of `W_dec` have unit length, so an activation is a length in the stream."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]
    threshold: Float[Tensor, " d_sae"]

    @property
    def d_in(self) -> int:
        """The width of the stream it reads."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """How many features it has."""
        return self.W_dec.shape[0]

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """Return every feature's activation; most are zero."""
        pre = x @ self.W_enc + self.b_enc
        return torch.where(pre > self.threshold, pre, 0.0)

    def decode(self, a: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_in"]:
        """Return the stream that these activations stand for."""
        return a @ self.W_dec + self.b_dec

    @torch.no_grad()
    def calibrated(self, rows: Float[Tensor, "rows d_in"], k: float) -> "SAE":
        """Return the SAE with the one threshold at which, on these rows, it keeps `k` features a token."""
        pre = torch.relu(rows @ self.W_enc + self.b_enc)
        values, wanted = pre[pre > 0], int(k * len(rows))
        cut = values.kthvalue(len(values) - wanted).values if wanted < len(values) else values.new_zeros(())
        return replace(self, threshold=cut.expand(self.d_sae).clone())

    def to(self, device: torch.device | str) -> "SAE":
        """Return the same weights on another device."""
        return SAE(**{k: v.to(device) for k, v in _tensors(self).items()})

    def save(self, folder: Path, *, hook: str, model: str, about: dict[str, Any] | None = None) -> None:
        """Write `cfg.json` and the weights; a reader sees the old files or the new, never half of one."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "architecture": "jumprelu",
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": False,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": {"sae_lens_version": "6.0.0", "model_name": model, "hook_name": hook, **(about or {})},
        }
        save_file({k: v.contiguous().cpu() for k, v in _tensors(self).items()}, folder / f"{WEIGHTS}.tmp")
        os.replace(folder / f"{WEIGHTS}.tmp", folder / WEIGHTS)
        (folder / f"{CONFIG}.tmp").write_text(json.dumps(config, indent=1) + "\n")
        os.replace(folder / f"{CONFIG}.tmp", folder / CONFIG)

    @staticmethod
    def load(folder: Path, *, device: torch.device | str = "cpu") -> "SAE":
        """Read an SAE. Raises BadBundle that says what was expected if anything is off."""
        try:
            config = json.loads((folder / CONFIG).read_text())
            tensors = load_file(folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise BadBundle(f"cannot read an SAE from {str(folder)!r}: {error}") from error
        if config.get("architecture") != "jumprelu":
            raise BadBundle(f"{str(folder)!r} holds a {config.get('architecture')!r} SAE; only 'jumprelu' is served")
        if config.get("apply_b_dec_to_input", True):
            raise BadBundle(f"{str(folder)!r} subtracts b_dec from its input; fold it into b_enc first")
        sae = SAE(**_checked(tensors, folder))
        return sae.to(device)


def _tensors(sae: SAE) -> dict[str, Tensor]:
    return {k: getattr(sae, k) for k in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}


def _checked(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    if missing := [n for n in names if n not in tensors]:
        raise BadBundle(f"the SAE in {str(folder)!r} lacks {', '.join(missing)}")
    if tensors["W_dec"].ndim != 2:
        raise BadBundle(f"W_dec in {str(folder)!r} must be [d_sae, d_in], not {list(tensors['W_dec'].shape)}")
    m, d = tensors["W_dec"].shape
    for name, shape in {"W_enc": (d, m), "b_enc": (m,), "b_dec": (d,), "threshold": (m,)}.items():
        if tuple(tensors[name].shape) != shape:
            raise BadBundle(f"{name} in {str(folder)!r} must be {list(shape)}, not {list(tensors[name].shape)}")
    for name in names:
        if not torch.isfinite(tensors[name]).all():
            raise BadBundle(f"{name} in {str(folder)!r} holds NaN or infinity")
    norms = tensors["W_dec"].float().norm(dim=1)
    if (norms - 1).abs().max() > 1e-2:
        raise BadBundle(f"rows of W_dec in {str(folder)!r} must have length 1; they reach {norms.max():.3g}")
    return {n: tensors[n].float() for n in names}
