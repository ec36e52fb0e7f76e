"""SAELens 6 and later: SAEs of a finished run; transcoders and other architectures as directions only."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import torch

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, fold, stream_hook
from steering.formats.fold import RawSae, fold_directions
from steering.formats.weight_files import Config, WeightFiles
from steering.sae import NORMALISED, Scaling


def _is_saelens(files: WeightFiles) -> bool:
    config = (
        files.json("cfg.json") or {}
    )  # before version 6, all keys were at the top level, and `standard` was the default
    return files.weights.name == "sae_weights.safetensors" and ("architecture" in config or "hook_name" in config)


def _saelens(files: WeightFiles) -> ImportedSae:
    config = files.json("cfg.json") or {}
    kind = config.get("architecture", "standard")
    if kind not in READABLE and kind not in DIRECTIONS_ONLY:
        raise BadBundle(
            f"architecture {kind!r} is not known; known are {', '.join(READABLE)}, and, as directions only, "
            f"{', '.join(DIRECTIONS_ONLY)}"
        )
    about = config.get("metadata") or {"hook_name": config.get("hook_name")}
    place = about.get("hook_name_out") if kind.endswith("transcoder") else _place(about)
    if kind in DIRECTIONS_ONLY or _mlp_out(place):
        return _directions(files, config, about, place)
    scaling = _scaling(config)
    loose = READABLE[kind](files, config, _factor(files))
    k = int(config["k"]) if kind == "topk" and "k" in config else None
    folded = fold(replace(loose, scaling=scaling), files.weights.name)
    return ImportedSae(folded, "saelens", stream_hook(_place(about)), k, about)


def _directions(files: WeightFiles, config: Config, about: Config, place: str | None) -> ImportedSae:
    """Read the decoder only: whether a feature fires depends on something else than its pre-activation."""
    kind, (W_dec,) = config.get("architecture", "standard"), files.take("W_dec")
    factor = _factor(files)
    if config.get("normalize_activations") == "constant_scalar_rescale":
        factor = float(config["activation_normalization_factor"])
    elif not kind.endswith("transcoder") and _scaling(config) != "none":
        factor = math.nan  # its output is multiplied by each token's scale, unlike a transcoder's
    by_length = "topk" in kind and bool(config.get("rescale_acts_by_decoder_norm", True))
    layer = _mlp_out(place)
    hook = f"layers.{layer}" if layer else stream_hook(place)
    if W_dec.ndim != 2:
        raise BadBundle(f"W_dec of {files.weights.name} must be [d_sae, width], not {list(W_dec.shape)}")
    return ImportedSae(fold_directions(W_dec, scale_out=factor, by_length=by_length), "saelens", hook, about=about)


def _scaling(config: Config) -> Scaling:
    if (normal := config.get("normalize_activations")) not in NORMALISED:
        raise BadBundle(
            f"normalize_activations {normal!r} is not supported, or not folded in yet, as at the end of a run"
        )
    return NORMALISED[normal]


def _factor(files: WeightFiles) -> float:
    return float((files.json("activation_scaler.json") or {}).get("scaling_factor") or 1.0)


def _mlp_out(place: str | None) -> str | None:
    """Return the block of an MLP output. It is added to the stream after that block, so a push there is a push on the
    stream.
    """
    found = re.fullmatch(r"blocks\.(\d+)\.(?:hook_mlp_out|mlp\.hook_out)", place or "")
    return found[1] if found else None


def _plain(files: WeightFiles, config: Config, scale: float) -> RawSae:
    W_enc, b_enc, W_dec, b_dec = files.take("W_enc", "b_enc", "W_dec", "b_dec")
    (threshold,) = files.take("threshold") if config.get("architecture") == "jumprelu" else (torch.zeros(()),)
    return RawSae(W_enc, b_enc, W_dec, b_dec, threshold, bool(config.get("apply_b_dec_to_input", True)), scale, scale)


def _gated(files: WeightFiles, config: Config, scale: float) -> RawSae:
    """A gate along the magnitude's direction is a threshold: xW > −b_gate ⟺ xWeʳ + b_mag > b_mag − eʳ·b_gate."""
    W_enc, gate, magnitude, r, W_dec, b_dec = files.take("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec")
    return RawSae(
        W_enc * r.exp(),
        magnitude,
        W_dec,
        b_dec,
        magnitude - r.exp() * gate,
        bool(config.get("apply_b_dec_to_input", True)),
        scale,
        scale,
    )


def _topk(files: WeightFiles, config: Config, scale: float) -> RawSae:
    W_enc, b_enc, W_dec, b_dec = files.take("W_enc", "b_enc", "W_dec", "b_dec")
    threshold = files.tensors.get("topk_threshold", torch.zeros(()))
    subtracts = bool(config.get("apply_b_dec_to_input", True))
    by_length = bool(config.get("rescale_acts_by_decoder_norm", True))
    return RawSae(W_enc, b_enc, W_dec, b_dec, threshold, subtracts, scale, scale, by_length)


READABLE: dict[str, Callable[[WeightFiles, Config, float], RawSae]] = {
    "standard": _plain,
    "jumprelu": _plain,
    "gated": _gated,
    "topk": _topk,
    "batchtopk": _topk,
    "matryoshka_batchtopk": _topk,
}
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


def _place(about: Config) -> str | None:
    return about.get("hook_name") or about.get("hf_hook_name")


SAELENS = Format("saelens", _is_saelens, _saelens)
