"""SAELens of every version: SAEs of a finished run; transcoders and other architectures as directions only."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, directions, imported
from steering.formats.fields import refuse_unknown_tensors
from steering.formats.fold import RawSae
from steering.formats.saelens_config import HOOK, LensConfig, read_config
from steering.formats.weight_files import WeightFiles

MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
FINETUNED = ("scaling_factor", "finetuning_scaling_factor")
"""Tensors `[d_sae]` by which activations are multiplied before the decoder; SAELens wrote the first before version 4."""


def _is_saelens(files: WeightFiles) -> bool:
    config = files.json("cfg.json") or {}  # before version 6, all keys were at the top level; before 3, no architecture
    return files.weights.name == "sae_weights.safetensors" and any(
        name in config for name in ("architecture", "d_sae", "hf_hook_name", *HOOK)
    )


def _saelens(files: WeightFiles) -> ImportedSae:
    config = read_config(files, [*READABLE], DIRECTIONS_ONLY)
    if not config.reads:
        return _directions(files, config)
    used, read = READABLE[config.architecture]
    refuse_unknown_tensors(files, {*used, *FINETUNED})
    raw = read(files, config)
    config.fields.check_size("d_in", len(raw.b_dec), "columns of W_dec")
    config.fields.check_size("d_sae", len(raw.W_dec), "rows of W_dec")
    k = config.k if not _threshold_of_batches(files, config) else None
    return imported(files, "saelens", config.point, raw, k=k, about=config.about)


def _directions(files: WeightFiles, config: LensConfig) -> ImportedSae:
    """Read the decoder only: whether a feature fires depends on something else than its pre-activation."""
    factor = config.factor if config.scaling == "none" else math.nan  # else the output is scaled per token
    hook = config.point.hook if config.point else None
    (W_dec,) = files.take("W_dec")
    by_length = "topk" in config.architecture and config.by_length
    return directions(files, "saelens", hook, W_dec, scale_out=factor, by_length=by_length, about=config.about)


def _raw(config: LensConfig, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, threshold: Tensor) -> RawSae:
    return RawSae(
        W_enc,
        b_enc,
        W_dec,
        b_dec,
        threshold,
        subtracts=config.subtracts,
        scale_in=config.factor,
        scale_out=config.factor,
        by_length=config.by_length and config.architecture.endswith("topk"),
        centred=config.centred,
        scaling=config.scaling,
    )


def _standard(files: WeightFiles, config: LensConfig) -> RawSae:
    W_enc, b_enc, W_dec, b_dec = _matrices(files)
    return _raw(config, W_enc, b_enc, W_dec, b_dec, torch.zeros(()))


def _jumprelu(files: WeightFiles, config: LensConfig) -> RawSae:
    """A checkpoint of a run may hold the logarithm of the threshold."""
    W_enc, b_enc, W_dec, b_dec = _matrices(files)
    if "threshold" not in files.tensors and "log_threshold" in files.tensors:
        threshold = files.take("log_threshold")[0].exp()
    else:
        (threshold,) = files.take("threshold")
    return _raw(config, W_enc, b_enc, W_dec, b_dec, threshold)


def _gated(files: WeightFiles, config: LensConfig) -> RawSae:
    """A gate along the magnitude's direction is a threshold: xW > −b_gate ⟺ xWeʳ + b_mag > b_mag − eʳ·b_gate."""
    W_enc, gate, magnitude, r, b_dec = files.take("W_enc", "b_gate", "b_mag", "r_mag", "b_dec")
    return _raw(config, W_enc * r.exp(), magnitude, _decoder(files), b_dec, magnitude - r.exp() * gate)


def _topk(files: WeightFiles, config: LensConfig) -> RawSae:
    W_enc, b_enc, W_dec, b_dec = _matrices(files)
    return _raw(config, W_enc, b_enc, W_dec, b_dec, files.tensors.get("topk_threshold", torch.zeros(())))


def _matrices(files: WeightFiles) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    W_enc, b_enc, b_dec = files.take("W_enc", "b_enc", "b_dec")
    return W_enc, b_enc, _decoder(files), b_dec


def _decoder(files: WeightFiles) -> Tensor:
    """Return the decoder, with the factors of a fine-tuning on its rows."""
    (W_dec,) = files.take("W_dec")
    for name in FINETUNED:
        if name in files.tensors:
            (factor,) = files.take(name)
            if factor.numel() not in (1, len(W_dec)):
                raise BadBundle(f"{name} of {files.weights.name} must be [{len(W_dec)}], not {list(factor.shape)}")
            W_dec = W_dec * factor.reshape(-1, 1)
    return W_dec


def _threshold_of_batches(files: WeightFiles, config: LensConfig) -> bool:
    """Whether a BatchTopK has the threshold that its batches had on average; without, it is calibrated to its k."""
    held = files.tensors.get("topk_threshold")
    return "batchtopk" in config.architecture and held is not None and float(held) > 0


READABLE: dict[str, tuple[tuple[str, ...], Callable[[WeightFiles, LensConfig], RawSae]]] = {
    "standard": (MATRICES, _standard),
    "jumprelu": ((*MATRICES, "threshold", "log_threshold"), _jumprelu),
    "gated": (("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"), _gated),
    "topk": ((*MATRICES, "topk_threshold"), _topk),
    "batchtopk": ((*MATRICES, "topk_threshold"), _topk),
    "matryoshka_batchtopk": ((*MATRICES, "topk_threshold"), _topk),
}
"""The tensors that each architecture uses, and its reader."""
DIRECTIONS_ONLY = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
    "abstopk",
    "matching_pursuit",
    "temporal",
)
"""Their input is not their output's hook point, or they keep negative activations, select greedily, or read other
tokens.
"""
SAELENS = Format("saelens", _is_saelens, _saelens)
