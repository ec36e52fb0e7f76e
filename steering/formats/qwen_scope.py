"""Qwen-Scope: TopK with transposed matrices."""

import re

from steering.formats.base import Format, ImportedSae, imported
from steering.formats.fields import Fields, agreed, refuse_unknown_tensors
from steering.formats.fold import RawSae
from steering.formats.hook_points import agreed_point, stream_in_path, unsteerable
from steering.formats.model_preparation import check_served
from steering.formats.weight_files import WeightFiles

PARTS = ("W_enc", "b_enc", "W_dec", "b_dec")
READ = {"model_type", "base_model", "d_model", "d_sae", "k", "top_k", "hook_point", "num_layers"}


def _is_qwen_scope(files: WeightFiles) -> bool:
    if not files.has("W_enc", "W_dec", "b_dec") or files.weights.suffix != ".pt":
        return False
    d, (rows, _) = files.tensors["b_dec"].shape[0], files.tensors["W_dec"].shape
    return rows == d and (files.weights.name.endswith(".sae.pt") or files.tensors["W_dec"].shape[1] != d)


def _qwen_scope(files: WeightFiles) -> ImportedSae:
    fields = Fields.of(files, "config.json")
    fields.choice("model_type", {"topk_sae": "topk", "topk": "topk", "sae": "topk"}, "topk_sae")
    fields.choice("activation", {"topk": "topk"}, "topk", "activation_fn", "act_fn")
    fields.refuse_unknown({*READ, "activation", "activation_fn", "act_fn"})
    check_served("base_model in config.json", fields.value("base_model"))
    _check_place(files, fields)
    refuse_unknown_tensors(files, PARTS)
    W_enc, b_enc, W_dec, b_dec = files.take(*PARTS)
    fields.check_size("d_model", len(b_dec), "rows of W_dec")
    fields.check_size("d_sae", len(b_enc), "columns of W_dec")
    k = agreed(("k in config.json", fields.k("k", "top_k")), ("L0 in the path", files.number(r"L0_(\d+)"))) or 0
    point = agreed_point(stream_in_path(files, r"layer(\d+)\.sae"))
    return imported(files, "qwen-scope", point, RawSae(W_enc.T, b_enc, W_dec.T, b_dec), k=k)


def _check_place(files: WeightFiles, fields: Fields) -> None:
    """Raise BadBundle if the repository's name or its configuration states another place than the stream."""
    stated = fields.text("hook_point", default="resid_post") or "resid_post"
    if stated != "resid_post":
        raise unsteerable(f"hook_point in {fields.file}", stated)
    kind = re.findall(r"SAE-([A-Za-z]+)-", files.weights.absolute().as_posix())
    if kind and kind[-1] != "Res":
        raise unsteerable("the path", kind[-1])


QWEN_SCOPE = Format("qwen-scope", _is_qwen_scope, _qwen_scope)
