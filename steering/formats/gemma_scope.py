"""Gemma Scope 1 (numpy arrays) and Gemma Scope 2 (safetensors).

SAEs of the stream are read. Of transcoders and of SAEs of an MLP's output, both trained after the norm that Gemma
applies to that output, the directions are; attention, embeddings, crosscoders and cross-layer transcoders are refused.
"""

import re
from pathlib import Path

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, imported
from steering.formats.fields import Fields, refuse_unknown_tensors
from steering.formats.fold import RawSae
from steering.formats.hook_points import HookPoint, Statement, agreed_point, state, unsteerable
from steering.formats.weight_files import WeightFiles

PARTS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
SITE = re.compile(
    r"(?:^|[-_])(res|resid|resid_post|mlp|mlp_out|transcoders?|att|attn|attn_out|attention|embedding|clt|crosscoder)(?:_all)?$"
)
MLP_SITES = ("mlp", "mlp_out", "transcoder", "transcoders")
READ = {"architecture", "type", "affine_connection", "hf_hook_point_in", "hf_hook_point_out", "model_name", "layer"}


def _is_gemma_scope_1(files: WeightFiles) -> bool:
    return files.weights.suffix == ".npz" and {"w_dec", "threshold"} <= {n.lower() for n in files.tensors}


def _gemma_scope_1(files: WeightFiles) -> ImportedSae:
    named = {n.lower(): t.float() for n, t in files.tensors.items()}
    if missing := [n for n in PARTS if n not in named]:
        raise BadBundle(f"{files.weights.name} lacks {', '.join(missing)}")
    refuse_unknown_tensors(files, {*PARTS, "W_enc", "W_dec", "scaling_factor"})
    W_dec = named["w_dec"]
    if "scaling_factor" in named:  # of a fine-tuning: it multiplies activations before the decoder
        W_dec = W_dec * named["scaling_factor"].reshape(-1, 1)
    raw = RawSae(named["w_enc"], named["b_enc"], W_dec, named["b_dec"], named["threshold"])
    return imported(files, "gemma-scope-1", agreed_point(_state_path(files)), raw)


def _state_path(files: WeightFiles) -> list[Statement]:
    """Return what the path states: the layer, and the kind of SAE in the folder or repository above it.

    Raises BadBundle if the SAE is not of the stream after a block or of an MLP's output.
    """
    folder = files.weights.absolute().parent
    site, layer = _site(folder), files.number(r"layer_(\d+)")
    if site is not None and site not in (*MLP_SITES, "res", "resid", "resid_post"):
        raise unsteerable("the path", site)
    if layer is None:
        return []
    point = HookPoint(layer, mlp_out=site in MLP_SITES)
    return [Statement("the path", f"{site or ''}/layer_{layer}".lstrip("/"), point)]


def _site(folder: Path) -> str | None:
    """Return the kind of SAE that the path names: in the name of a repository, or in that of the folder above `layer_N`.

    `gemma-scope-2b-pt-res/embedding/…` has two, of which the inner one holds.
    """
    parts = folder.parts
    at = next((i for i in reversed(range(len(parts))) if parts[i].startswith("layer_")), None)
    above = [p for p in parts[:at] if "gemma-scope" in p]
    above += parts[at - 1 : at] if at else [p for p in parts[-3:] if p in ("embedding", "clt", "crosscoder")]
    for part in reversed(above):
        if found := SITE.search(part):
            return found[1]
    return None


def _is_gemma_scope_2(files: WeightFiles) -> bool:
    return files.weights.suffix == ".safetensors" and files.has("w_enc", "w_dec", "threshold")


def _gemma_scope_2(files: WeightFiles) -> ImportedSae:
    fields = Fields.of(files, "config.json")
    fields.choice("architecture", {"jump_relu": "jumprelu", "jumprelu": "jumprelu"}, "jump_relu")
    fields.choice("type", {"sae": "sae", "transcoder": "transcoder"}, "sae")
    fields.refuse_unknown(READ)
    if files.tensors["w_dec"].ndim != 2:
        raise BadBundle(f"{files.weights.name} writes to several layers: a cross-layer transcoder or a crosscoder")
    refuse_unknown_tensors(files, {*PARTS, "affine_skip_connection"})
    point = agreed_point([*_state_config(fields), *_state_path(files)])
    affine = "affine_skip_connection" in files.tensors or fields.flag("affine_connection", default=False)
    transcodes = affine or fields.text("type") == "transcoder"
    if transcodes and (point is None or not point.mlp_out):
        raise BadBundle(f"{files.weights.name} is a transcoder: its output is at another hook point than its input")
    W_enc, b_enc, W_dec, b_dec, threshold = files.take(*PARTS)
    raw = RawSae(W_enc, b_enc, W_dec, b_dec, threshold)
    return imported(files, "gemma-scope-2", point, raw, about=dict(fields.values))


def _state_config(fields: Fields) -> list[Statement]:
    """Return the hook point that the configuration states as the output's; the input's where that is missing."""
    for name in ("hf_hook_point_out", "hf_hook_point_in"):
        if stated := state(f"{name} in {fields.file}", fields.text(name)):
            point_in = fields.text("hf_hook_point_in")
            if not stated[0].point.mlp_out and point_in not in (None, stated[0].name):
                raise unsteerable(f"hf_hook_point_in in {fields.file}", str(point_in))
            return stated
    return []


GEMMA_SCOPE_1 = Format("gemma-scope-1", _is_gemma_scope_1, _gemma_scope_1)
GEMMA_SCOPE_2 = Format("gemma-scope-2", _is_gemma_scope_2, _gemma_scope_2)
