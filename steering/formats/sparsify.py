"""sparsify: TopK in a folder named after its hook point."""

import re

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, fold
from steering.formats.fold import RawSae
from steering.formats.weight_files import WeightFiles


def _is_sparsify(files: WeightFiles) -> bool:
    return files.weights.name == "sae.safetensors" and files.has("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def _sparsify(files: WeightFiles) -> ImportedSae:
    config = files.json("cfg.json") or {}
    if config.get("transcode") or "W_skip" in files.tensors:
        raise BadBundle(f"{files.weights.name} is a transcoder: its output is at another hook point than its input")
    if (kind := config.get("activation", "topk")) != "topk":
        raise BadBundle(f"activation {kind!r} has no equivalent threshold; expected 'topk'")
    if config.get("signed"):
        raise BadBundle("a signed TopK keeps negative activations, which a served SAE does not have")
    W_enc, b_enc, W_dec, b_dec = files.take("encoder.weight", "encoder.bias", "W_dec", "b_dec")
    name = files.weights.absolute().parent.name
    if name.startswith("layers.") and not re.fullmatch(r"layers\.\d+", name):
        raise BadBundle(f"its hook point is {name!r}, which is not the stream after a block; only that can be steered")
    hook = name if name.startswith("layers.") else None
    folded = fold(RawSae(W_enc.T, b_enc, W_dec, b_dec, subtracts=True), files.weights.name)
    return ImportedSae(folded, "sparsify", hook, int(config.get("k", 0)), config)


SPARSIFY = Format("sparsify", _is_sparsify, _sparsify)
