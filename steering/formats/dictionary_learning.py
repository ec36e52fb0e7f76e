"""dictionary_learning: one reader for each of its dictionary classes."""

import re
from collections.abc import Callable

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, fold, linear
from steering.formats.fold import RawSae
from steering.formats.weight_files import WeightFiles


def _is_dictionary_learning(files: WeightFiles) -> bool:
    config = files.json("config.json") or {}
    return files.weights.suffix == ".pt" and "dict_class" in (config.get("trainer") or {})


def _dictionary_learning(files: WeightFiles) -> ImportedSae:
    trainer = (files.json("config.json") or {})["trainer"]
    kind = trainer["dict_class"]
    reader = DICTIONARIES.get(kind)
    if reader is None:
        raise BadBundle(f"dict_class {kind!r} is not known; known are {', '.join(DICTIONARIES)}")
    if re.search("mlp|att", name := str(trainer.get("submodule_name") or "")):
        raise BadBundle(f"its hook point is {name!r}, which is not the stream after a block; only that can be steered")
    loose = reader(files)
    layer = trainer.get("layer")
    unset = kind == "AutoEncoderTopK" or (kind.endswith("BatchTopKSAE") and float(files.tensors["threshold"]) < 0)
    k = int(files.tensors["k"]) if unset else None
    hook = f"layers.{layer}" if isinstance(layer, int) else None
    return ImportedSae(fold(loose, files.weights.name), "dictionary-learning", hook, k, trainer)


def _gated_linear(files: WeightFiles) -> RawSae:
    W_enc, r, gate, magnitude, W_dec, b_dec = files.take(
        "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight", "decoder_bias"
    )
    return RawSae(W_enc.T * r.exp(), magnitude, W_dec.T, b_dec, magnitude - r.exp() * gate, subtracts=True)


def _matrices(files: WeightFiles, *, subtracts: bool) -> RawSae:
    W_enc, b_enc, W_dec, b_dec, threshold = files.take("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    return RawSae(W_enc, b_enc, W_dec, b_dec, threshold, subtracts)


DICTIONARIES: dict[str, Callable[[WeightFiles], RawSae]] = {
    "AutoEncoder": lambda f: linear(f, "bias", subtracts=True),
    "AutoEncoderNew": lambda f: linear(f, None, subtracts=False),
    "GatedAutoEncoder": _gated_linear,
    "JumpReluAutoEncoder": lambda f: _matrices(f, subtracts=False),
    "AutoEncoderTopK": lambda f: linear(f, "b_dec", subtracts=True),
    "BatchTopKSAE": lambda f: linear(f, "b_dec", subtracts=True, threshold=f.take("threshold")[0]),
    "MatryoshkaBatchTopKSAE": lambda f: _matrices(f, subtracts=True),
}


DICTIONARY_LEARNING = Format("dictionary-learning", _is_dictionary_learning, _dictionary_learning)
