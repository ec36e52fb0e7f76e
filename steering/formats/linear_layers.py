"""Two linear layers without configuration, as saved by Goodfire and many others."""

from steering.formats.base import Format, ImportedSae, fold, hook_in_path, linear
from steering.formats.fold import RawSae
from steering.formats.weight_files import WeightFiles


def _is_goodfire(files: WeightFiles) -> bool:
    return files.has("encoder_linear.weight", "decoder_linear.weight")


def _goodfire(files: WeightFiles) -> ImportedSae:
    W_enc, b_enc, W_dec, b_dec = files.take(
        "encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias"
    )
    folded = fold(RawSae(W_enc.T, b_enc, W_dec.T, b_dec), files.weights.name)
    return ImportedSae(folded, "goodfire", hook_in_path(files, r"-l(\d+)\.pth?"))


def _is_two_linear_layers(files: WeightFiles) -> bool:
    return files.has("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


def _two_linear_layers(files: WeightFiles) -> ImportedSae:
    folded = fold(linear(files, None, subtracts=False), files.weights.name)
    return ImportedSae(folded, "two-linear-layers", hook_in_path(files, r"[_.-]l(\d+)\D"))


GOODFIRE = Format("goodfire", _is_goodfire, _goodfire)
TWO_LINEAR_LAYERS = Format("two-linear-layers", _is_two_linear_layers, _two_linear_layers)
