"""OpenAI's SAEs for GPT-2: ReLU, or TopK of normalised tokens; the hook point is given only by the path."""

import re
from dataclasses import replace

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, imported
from steering.formats.fields import Fields, refuse_unknown_tensors
from steering.formats.fold import RawSae
from steering.formats.hook_points import HookPoint, unsteerable
from steering.formats.weight_files import WeightFiles

PARTS = ("encoder.weight", "latent_bias", "decoder.weight", "pre_bias")
STATE = "activation_state_dict"


def _is_openai(files: WeightFiles) -> bool:
    return files.has(*PARTS)


def _openai(files: WeightFiles) -> ImportedSae:
    refuse_unknown_tensors(files, (*PARTS, "k"))
    W_enc, latent, W_dec, pre = files.take(*PARTS)
    k = _k(files)
    raw = RawSae(W_enc.T, latent, W_dec.T, pre, subtracts=True)
    if k is not None:
        raw = replace(raw, scaling="spread")  # only a TopK normalises its input
    return imported(files, "openai", _point(files), raw, k=k)


def _k(files: WeightFiles) -> int | None:
    """Return the k of a TopK; None for a ReLU. Raises BadBundle for other activations."""
    held = files.all_tensors
    kind, state = held.get("activation") or "ReLU", held.get(STATE) or {}
    after = state.get("postact_fn") or "ReLU"
    if kind not in ("ReLU", "TopK") or after != "ReLU":
        raise BadBundle(
            f"{files.weights.name} has the activation {kind} {after if kind == 'TopK' else ''}; known are ReLU and TopK"
        )
    if kind == "ReLU":
        return None
    arguments = Fields({n: float(v) if n == "k" else v for n, v in state.items()}, f"{files.weights.name} ({STATE})")
    arguments.refuse(*sorted({*state} - {"k", "postact_fn"}), because="this argument of a TopK is not known")
    return arguments.k() or 32  # all published ones have 32


def _point(files: WeightFiles) -> HookPoint | None:
    """Return the hook point, if it is in the path; `resid_delta_mlp` is what the MLP adds to the stream."""
    path = files.weights.absolute().as_posix()
    found = re.search(r"/(mlp_post_act|resid_(?:delta|post)_(?:attn|mlp))(?:_v\d\w*)?/autoencoders/(\d+)\.pt$", path)
    if found is None:
        return None
    if found[1] not in ("resid_post_mlp", "resid_delta_mlp"):
        raise unsteerable("the path", found[1])
    return HookPoint(int(found[2]), mlp_out=found[1] == "resid_delta_mlp")


OPENAI = Format("openai", _is_openai, _openai)
