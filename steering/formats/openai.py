"""OpenAI's SAEs for GPT-2: ReLU, or TopK of normalised tokens; the hook point is given only by the path."""

import math
import re
from dataclasses import replace

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, fold
from steering.formats.fold import RawSae, fold_directions
from steering.formats.weight_files import WeightFiles


def _is_openai(files: WeightFiles) -> bool:
    return files.has("pre_bias", "latent_bias", "encoder.weight", "decoder.weight")


def _openai(files: WeightFiles) -> ImportedSae:
    W_enc, latent, W_dec, pre = files.take("encoder.weight", "latent_bias", "decoder.weight", "pre_bias")
    hook, directions = _openai_place(files)
    kind, state = files.all_tensors.get("activation", "ReLU"), files.all_tensors.get("activation_state_dict") or {}
    if directions:
        scale = math.nan if kind == "TopK" else 1.0
        return ImportedSae(fold_directions(W_dec.T, scale_out=scale), "openai", hook)
    loose = RawSae(W_enc.T, latent, W_dec.T, pre, subtracts=True)
    if kind == "ReLU":
        return ImportedSae(fold(loose, files.weights.name), "openai", hook)
    if kind != "TopK" or state.get("postact_fn", "ReLU") != "ReLU":
        raise BadBundle(
            f"{files.weights.name} has the activation {kind} {state.get('postact_fn', '')}; known are ReLU and TopK"
        )
    folded = fold(replace(loose, scaling="spread"), files.weights.name)  # only a TopK normalises its input
    return ImportedSae(folded, "openai", hook, int(state.get("k", 32)))  # all published ones have k = 32


def _openai_place(files: WeightFiles) -> tuple[str | None, bool]:
    """Return the hook point, if it is in the path, and whether the input is not the residual stream."""
    path = files.weights.absolute().as_posix()
    found = re.search(r"/(mlp_post_act|resid_(?:delta|post)_(?:attn|mlp))(?:_v\d\w*)?/autoencoders/(\d+)\.pt$", path)
    if found is None:
        return None, False
    if found[1] not in ("resid_post_mlp", "resid_delta_mlp"):
        raise BadBundle(
            f"its hook point is {found[1]!r}, which is not the stream after a block; only that can be steered"
        )
    return f"layers.{found[2]}", found[1] == "resid_delta_mlp"


OPENAI = Format("openai", _is_openai, _openai)
