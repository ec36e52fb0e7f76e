"""Gemma Scope 1 (numpy arrays) and Gemma Scope 2 (safetensors)."""

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, fold, hook_in_path
from steering.formats.fold import RawSae
from steering.formats.weight_files import WeightFiles


def _is_gemma_scope_1(files: WeightFiles) -> bool:
    return files.weights.suffix == ".npz" and {"w_dec", "threshold"} <= {n.lower() for n in files.tensors}


def _gemma_scope_1(files: WeightFiles) -> ImportedSae:
    named = {n.lower(): t.float() for n, t in files.tensors.items()}
    if missing := [n for n in ("w_enc", "b_enc", "b_dec") if n not in named]:
        raise BadBundle(f"{files.weights.name} lacks {', '.join(missing)}")
    loose = RawSae(named["w_enc"], named["b_enc"], named["w_dec"], named["b_dec"], named["threshold"])
    if "scaling_factor" in named:
        factor = float(named["scaling_factor"])
        loose = RawSae(loose.W_enc, loose.b_enc, loose.W_dec, loose.b_dec, loose.threshold, scale_out=1 / factor)
    return ImportedSae(fold(loose, files.weights.name), "gemma-scope-1", hook_in_path(files, r"layer_(\d+)"))


def _is_gemma_scope_2(files: WeightFiles) -> bool:
    return files.weights.suffix == ".safetensors" and files.has("w_enc", "w_dec", "threshold")


def _gemma_scope_2(files: WeightFiles) -> ImportedSae:
    if "affine_skip_connection" in files.tensors or files.tensors["w_dec"].ndim != 2:
        raise BadBundle(f"{files.weights.name} is a transcoder: its output is at another hook point than its input")
    config = files.json("config.json") or {}
    if (kind := config.get("architecture", "jump_relu")) not in ("jump_relu", "jumprelu"):
        raise BadBundle(f"architecture {kind!r} is not known for Gemma Scope; expected 'jump_relu'")
    W_enc, b_enc, W_dec, b_dec, threshold = files.take("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
    folded = fold(RawSae(W_enc, b_enc, W_dec, b_dec, threshold), files.weights.name)
    return ImportedSae(folded, "gemma-scope-2", hook_in_path(files, r"layer_(\d+)"), about=config)


GEMMA_SCOPE_1 = Format("gemma-scope-1", _is_gemma_scope_1, _gemma_scope_1)
GEMMA_SCOPE_2 = Format("gemma-scope-2", _is_gemma_scope_2, _gemma_scope_2)
