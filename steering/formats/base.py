"""Common parts of all formats: `Format`, `ImportedSae`, shape checks, and the choice between SAE and directions."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steering.errors import BadBundle
from steering.formats.fold import Folded, RawSae, fold_directions
from steering.formats.hook_points import HookPoint
from steering.formats.weight_files import WeightFiles
from steering.sae import SAE


@dataclass(frozen=True, eq=False)
class ImportedSae:
    """An SAE read from files, with their metadata."""

    folded: Folded
    format: str
    hook: str | None
    """Hook point as `layers.N`; None if the files do not state it."""
    k: int | None = None
    """L0 that it was trained for, where its threshold must still be calibrated on text."""
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def sae(self) -> SAE:
        """The SAE as a JumpReLU."""
        return self.folded.sae

    @property
    def unit(self) -> Float[Tensor, " d_sae"]:
        """Factor from published activations to lengths in the stream, without a token's scale.

        NaN where that scale is not the stream's, so that the factor is unknown.
        """
        return self.folded.unit


@dataclass(frozen=True)
class Format:
    """One layout: its name, a test for its files, and its reader."""

    name: str
    recognised: Callable[["WeightFiles"], bool]
    read: Callable[["WeightFiles"], ImportedSae]


def imported(
    files: WeightFiles,
    layout: str,
    point: HookPoint | None,
    raw: RawSae,
    *,
    k: int | None = None,
    about: dict[str, Any] | None = None,
) -> ImportedSae:
    """Return an SAE of the stream, folded; or the directions of one that writes what an MLP adds to the stream.

    Raises BadBundle that names the tensor, if shapes do not match.
    """
    hook = point.hook if point else None
    if point is None or not point.mlp_out:
        return ImportedSae(fold(raw, files.weights.name), layout, hook, k, about or {})
    scale = raw.scale_out if raw.scaling == "none" else math.nan
    return directions(files, layout, hook, raw.W_dec, scale_out=scale, by_length=raw.by_length, about=about)


def directions(
    files: WeightFiles,
    layout: str,
    hook: str | None,
    W_dec: Tensor,
    *,
    scale_out: float = 1.0,
    by_length: bool = False,
    about: dict[str, Any] | None = None,
) -> ImportedSae:
    """Return a decoder alone; `scale_out` is NaN where an activation's length in the stream is not known.

    Raises BadBundle if the decoder is not `[d_sae, width]`.
    """
    if W_dec.ndim != 2:
        raise BadBundle(f"the decoder of {files.weights.name} must be [d_sae, width], not {list(W_dec.shape)}")
    return ImportedSae(
        fold_directions(W_dec, scale_out=scale_out, by_length=by_length), layout, hook, None, about or {}
    )


def fold(loose: RawSae, name: str) -> Folded:
    """Normalise an SAE. Raises BadBundle that names the tensor, if shapes do not match."""
    m, d = loose.W_dec.shape if loose.W_dec.ndim == 2 else (0, 0)
    wanted = {"W_enc": (d, m), "b_enc": (m,), "b_dec": (d,)}
    for part, shape in wanted.items():
        if tuple(getattr(loose, part).shape) != shape:
            got = list(getattr(loose, part).shape)
            raise BadBundle(f"{part} of {name} must be {list(shape)} beside a decoder of {m} × {d}, not {got}")
    if isinstance(loose.threshold, Tensor) and loose.threshold.ndim and tuple(loose.threshold.shape) != (m,):
        raise BadBundle(f"the threshold of {name} must be one number or {m}, not {list(loose.threshold.shape)}")
    return loose.normalise()


def linear(files: WeightFiles, bias: str | None, *, subtracts: bool, threshold: Tensor | float = 0.0) -> RawSae:
    """Read two torch linear layers, whose matrices are transposed; the decoder's bias may have another name."""
    W_enc, b_enc, W_dec = files.take("encoder.weight", "encoder.bias", "decoder.weight")
    (b_dec,) = files.take(bias or "decoder.bias")
    return RawSae(W_enc.T, b_enc, W_dec.T, b_dec, threshold, subtracts)
