"""sparsify: TopK in a folder named after its hook point."""

import re

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, imported
from steering.formats.fields import Fields, agreed, refuse_unknown_tensors
from steering.formats.fold import RawSae
from steering.formats.hook_points import HookPoint, agreed_point, state, unsteerable
from steering.formats.model_preparation import check_served
from steering.formats.weight_files import WeightFiles

PARTS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
READ = {"activation", "k", "signed", "transcode", "skip_connection", "d_in", "num_latents", "embed_skip", "gram_lookup"}
HARMLESS = {"expansion_factor", "normalize_decoder", "multi_topk", "lookup_max_order", "gram_table_hash"}


def _is_sparsify(files: WeightFiles) -> bool:
    return files.weights.name == "sae.safetensors" and files.has(*PARTS)


def _sparsify(files: WeightFiles) -> ImportedSae:
    fields, run = Fields.of(files, "cfg.json"), Fields.of(files, "../config.json")
    _check_function(files, fields)
    _check_function(files, shared := run.inner("sae"))
    check_served("model in config.json", run.value("model"))
    fields.refuse_unknown(READ | HARMLESS)
    refuse_unknown_tensors(files, PARTS)
    W_enc, b_enc, W_dec, b_dec = files.take(*PARTS)
    fields.check_size("num_latents", len(W_dec), "rows of W_dec")
    fields.check_size("d_in", len(b_dec), "columns of W_dec")
    k = agreed((f"k in {fields.file}", fields.k()), (f"k in {shared.file}", shared.k())) or 0
    raw = RawSae(W_enc.T, b_enc, W_dec, b_dec, subtracts=True)
    return imported(files, "sparsify", _point(files), raw, k=k, about=dict(fields.values))


def _check_function(files: WeightFiles, fields: Fields) -> None:
    """Raise BadBundle for what is no TopK of the stream's own activations."""
    transcodes = fields.flag("transcode", default=False) or fields.flag("skip_connection", default=False)
    if transcodes or "W_skip" in files.tensors:
        raise BadBundle(f"{files.weights.name} is a transcoder: its output is at another hook point than its input")
    if (kind := fields.text("activation", default="topk")) != "topk":
        raise BadBundle(f"activation {kind!r} in {fields.file} has no equivalent threshold; expected 'topk'")
    fields.refuse("signed", because="a signed TopK keeps negative activations, which a served SAE does not have")
    fields.refuse("embed_skip", "gram_lookup", because="its reconstruction needs more than the stream at this layer")


def _point(files: WeightFiles) -> HookPoint | None:
    """Return the hook point that the folder's name states, such as `layers.10`; None if it names no module."""
    name = files.weights.absolute().parent.name.replace("layers_", "layers.")
    if re.fullmatch(r"(?:.+\.)?embed_tokens|(?:.+\.)?wte", name):
        raise unsteerable("the folder's name", name)
    named = re.match(r"(?:\w+\.)*(?:layers|h)\.\d+(?:\.|$)", name)
    point = agreed_point(state("the folder's name", name)) if named else None
    if point and point.mlp_out:
        raise unsteerable("the folder's name", name)
    return point


SPARSIFY = Format("sparsify", _is_sparsify, _sparsify)
