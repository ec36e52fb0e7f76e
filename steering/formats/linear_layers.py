"""Two linear layers without a layout of their own, as saved by Goodfire, DeepSeek-R1's SAEs and many others."""

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, imported, linear
from steering.formats.fields import Fields, refuse_unknown_tensors
from steering.formats.fold import RawSae
from steering.formats.hook_points import Statement, agreed_point, state, stream_in_path
from steering.formats.weight_files import WeightFiles

CONFIGS = ("cfg.json", "config.json", "hyperparams.json")
ACTIVATION = ("activation", "activation_fn", "act_fn", "activation_function")
HOOK = ("hook_name", "hook_point", "hook_point_in")
READ = {*ACTIVATION, *HOOK, "k", "top_k", "d_in", "d_sae", "model_type", "architecture"}
LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
GOODFIRE_LINEAR = tuple(n.replace("coder.", "coder_linear.") for n in LINEAR)


def _is_goodfire(files: WeightFiles) -> bool:
    return files.has("encoder_linear.weight", "decoder_linear.weight")


def _goodfire(files: WeightFiles) -> ImportedSae:
    refuse_unknown_tensors(files, GOODFIRE_LINEAR)
    W_enc, b_enc, W_dec, b_dec = files.take(*GOODFIRE_LINEAR)
    k, stated = _beside(files)
    point = agreed_point([*stated, *stream_in_path(files, r"-l(\d+)\.pth?")])
    return imported(files, "goodfire", point, RawSae(W_enc.T, b_enc, W_dec.T, b_dec), k=k)


def _is_two_linear_layers(files: WeightFiles) -> bool:
    return files.has(*LINEAR)


def _two_linear_layers(files: WeightFiles) -> ImportedSae:
    refuse_unknown_tensors(files, LINEAR)
    k, stated = _beside(files)
    point = agreed_point([*stated, *stream_in_path(files, r"[_.-]l(\d+)\D")])
    return imported(files, "two-linear-layers", point, linear(files, None, subtracts=False), k=k)


def _beside(files: WeightFiles) -> tuple[int | None, list[Statement]]:
    """Return the k and the hook points of a configuration beside the weights, whose layout is not known.

    Raises BadBundle for anything in it that may change the function: an activation other than ReLU and TopK, a bias
    before the encoder, a normalisation.
    """
    found, stated = None, []
    for fields in (Fields.of(files, name) for name in CONFIGS):
        if "architectures" in fields.values:
            continue  # the language model's own configuration
        kind = fields.choice(ACTIVATION[0], {"relu": "relu", "topk": "topk"}, "relu", *ACTIVATION[1:])
        fields.refuse_unknown(READ)
        architecture = (fields.text("architecture", default="standard") or "").lower()
        if architecture not in ("standard", "relu", "sae", "autoencoder", "topk"):
            raise BadBundle(f"architecture in {fields.file} is {architecture!r}, which two linear layers do not tell")
        if "topk" in (kind, architecture):
            found = fields.k("k", "top_k") or 0
        for name in HOOK:
            stated += state(f"{name} in {fields.file}", fields.text(name))
    return found, stated


GOODFIRE = Format("goodfire", _is_goodfire, _goodfire)
TWO_LINEAR_LAYERS = Format("two-linear-layers", _is_two_linear_layers, _two_linear_layers)
