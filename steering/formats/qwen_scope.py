"""Qwen-Scope: TopK with transposed matrices."""

from steering.formats.base import Format, ImportedSae, fold, hook_in_path
from steering.formats.fold import RawSae
from steering.formats.weight_files import WeightFiles


def _is_qwen_scope(files: WeightFiles) -> bool:
    if not files.has("W_enc", "W_dec", "b_dec") or files.weights.suffix != ".pt":
        return False
    d, (rows, _) = files.tensors["b_dec"].shape[0], files.tensors["W_dec"].shape
    return rows == d and (files.weights.name.endswith(".sae.pt") or files.tensors["W_dec"].shape[1] != d)


def _qwen_scope(files: WeightFiles) -> ImportedSae:
    W_enc, b_enc, W_dec, b_dec = files.take("W_enc", "b_enc", "W_dec", "b_dec")
    folded = fold(RawSae(W_enc.T, b_enc, W_dec.T, b_dec), files.weights.name)
    k = files.number(r"L0_(\d+)")
    return ImportedSae(folded, "qwen-scope", hook_in_path(files, r"layer(\d+)\.sae"), k)


QWEN_SCOPE = Format("qwen-scope", _is_qwen_scope, _qwen_scope)
