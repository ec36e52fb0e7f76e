"""SAELens' `cfg.json` of any version: fields at the top level, in `metadata`, or under their names before version 6."""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from steering.errors import BadBundle
from steering.formats.fields import Fields, agreed
from steering.formats.hook_points import HookPoint, Statement, agreed_point, check_layer, state
from steering.formats.model_preparation import check_served, is_centred
from steering.formats.weight_files import Config, WeightFiles
from steering.sae import NORMALISED, Scaling

log = logging.getLogger(__name__)
ACTIVATION = ("activation_fn", "activation_fn_str", "activation")
HOOK = ("hook_name", "hook_point")
LAYER = ("hook_layer", "hook_point_layer")
HEAD = ("hook_head_index", "hook_point_head_index")
FACTOR = ("norm_scaling_factor", "activation_normalization_factor")
READ = {
    *(*ACTIVATION, *HOOK, *LAYER, *HEAD, *FACTOR),
    *("architecture", "activation_fn_kwargs", "k", "apply_b_dec_to_input", "normalize_activations"),
    *("reshape_activations", "rescale_acts_by_decoder_norm", "metadata", "hook_name_out", "hf_hook_name"),
    *("hf_hook_name_out", "d_in", "d_sae", "model_from_pretrained_kwargs", "model_name"),
    "finetuning_scaling_factor",
}
HARMLESS = {
    *("jumprelu_ste_to_input", "jumprelu_tanh_scale", "jumprelu_init_threshold", "matryoshka_widths"),
    *("use_sparse_activations", "hook_eval", "hook_point_eval", "hook_layer_out", "hook_head_index_out"),
    *("hook_names", "normalize_sae_decoder", "mse_loss_normalization", "finetuning_method"),
    *("scale_sparsity_penalty_by_decoder_norm", "exclude_special_tokens", "disable_concat_sequences"),
    *("sequence_separator_token", "use_chat_formatting", "model_class_name", "model_kwargs"),
    *("expansion_factor", "sae", "verbose", "resume", "logger", "prefetch", "tied_weights", "kval_topk"),
    *("sae_diff_type", "bottleneck_factor", "residual_threshold", "max_iterations"),
    *("stop_on_duplicate_support", "type", "imported_from", "format"),
}
"""How it was trained, measured or published; or, of SAEs kept as directions only, how features are selected."""
PREPARATION = {
    *("center_writing_weights", "center_unembed", "fold_ln", "fold_value_biases"),
    *("refactor_factored_attn_matrices", "n_devices", "move_to_device", "default_padding_side"),
    *("trust_remote_code", "attn_implementation", "low_cpu_mem_usage", "tokenizer", "hf_model"),
    *("use_safetensors", "load_in_4bit", "load_in_8bit", "quantization_config", "first_n_layers"),
    *("local_files_only", "tensor_parallel_size", "n_ctx"),
}
"""Arguments of the model's loading that leave the stream as it is, or that `is_centred` reads."""
OTHER_WEIGHTS = ("revision", "checkpoint_index", "checkpoint_value")
"""Arguments that choose other weights than the model's last."""
NORMALISED_REPOSITORIES = {"Mistral-7B-Residual-Stream-SAEs": "constant_norm_rescale"}
"""Repositories whose files state another normalisation than SAELens' own list, which corrects them."""


@dataclass(frozen=True)
class LensConfig:
    """What an SAE computes, and where, as its configuration states it."""

    architecture: str
    k: int | None
    """Of a TopK; 0 if the files do not say."""
    subtracts: bool
    by_length: bool
    scaling: Scaling
    factor: float
    """Factor on the stream that is not folded in yet; NaN if it is not known."""
    centred: bool
    point: HookPoint | None
    reads: bool
    """Whether its activations are decided by one product with the stream that it writes to."""
    about: Config
    fields: Fields


def read_config(files: WeightFiles, architectures: Sequence[str], directions_only: Sequence[str]) -> LensConfig:
    """Read `cfg.json`. Raises BadBundle that names a field which is not supported or contradicts another."""
    fields = Fields.of(files, "cfg.json")
    metadata, runner = fields.inner("metadata"), Fields.of(files, "runner_cfg.json")
    kind = _architecture(fields, architectures, directions_only)
    _check_fields(fields, metadata)
    where = (fields, metadata, runner)
    model = agreed(*((f"model_name in {f.file}", f.text("model_name")) for f in (fields, metadata)))
    check_served("model_name in cfg.json", model)
    about = {"hook_name": fields.value(*HOOK), **metadata.values}
    transcodes = _transcodes(where, kind)
    point = _point(files, where, transcodes=transcodes)
    only_directions = transcodes or kind in directions_only or bool(point and point.mlp_out)
    config = LensConfig(
        kind,
        _k(fields) if kind.endswith("topk") and not only_directions else None,
        fields.flag("apply_b_dec_to_input", default=True),
        fields.flag("rescale_acts_by_decoder_norm", default=False),
        "none" if transcodes else _scaling(files, fields),
        _factor(files, fields, only_directions),
        not only_directions
        and is_centred(files, [*where, *(f.inner("model_from_pretrained_kwargs") for f in where)], model),
        point,
        not only_directions,
        about,
        fields,
    )
    if config.centred and config.scaling == "length":
        raise BadBundle(
            "cfg.json combines center_writing_weights with normalize_activations 'constant_norm_rescale': a scale by the "
            "length of the centred stream is not supported"
        )
    return config


def _architecture(fields: Fields, architectures: Sequence[str], directions_only: Sequence[str]) -> str:
    """Return the architecture; before version 6 a TopK was `standard` with another activation function."""
    kind = fields.text("architecture", default="standard") or "standard"
    if kind not in architectures and kind not in directions_only:
        raise BadBundle(
            f"architecture {kind!r} is not known; known are {', '.join(architectures)}, and, as directions only, "
            f"{', '.join(directions_only)}"
        )
    if kind in directions_only:
        return kind
    known = {"relu": kind}
    if kind == "standard" or kind.endswith("topk"):
        known |= {"topk": "topk" if kind == "standard" else kind}
    known |= {"batchtopk": kind} if "batchtopk" in kind else {}
    known |= {"jumprelu": kind} if kind == "jumprelu" else {}
    kind = fields.choice(ACTIVATION[0], known, "relu", *ACTIVATION[1:])
    if kind.endswith("topk"):
        _check_topk_arguments(fields.inner("activation_fn_kwargs"))
    return kind


def _check_topk_arguments(arguments: Fields) -> None:
    """Raise BadBundle for what follows the selection, unless it is a ReLU."""
    after = arguments.text("postact_fn", default="relu") or "relu"
    if not re.fullmatch(r"(torch\.)?(nn\.)?relu(\(\))?", after.lower()):
        raise BadBundle(f"postact_fn in {arguments.file} is {after!r}; only ReLU is supported after a TopK")
    arguments.refuse("signed", because="a served SAE has no negative activations")
    if unknown := set(arguments.values) - {"k", "top_k", "postact_fn", "signed", "use_sparse_activations"}:
        arguments.refuse(*sorted(unknown), because="this argument of a TopK is not known")


def _check_fields(fields: Fields, metadata: Fields) -> None:
    """Raise BadBundle for fields that change the function and are not supported."""
    for held in (fields, metadata):
        for name in HEAD:
            if held.values.get(name) is not None:
                raise BadBundle(
                    f"{name} in {held.file} is {held.values[name]!r}: it reads one attention head, which is not the stream "
                    "after a block; only that can be steered"
                )
        held.refuse_unknown(READ | HARMLESS)
        loading = held.inner("model_from_pretrained_kwargs")
        loading.refuse_unknown({*PREPARATION, *OTHER_WEIGHTS})
        for name in OTHER_WEIGHTS:
            if (value := loading.values.get(name)) not in (None, "main"):
                log.warning("%s in %s is %r: give --model the same weights", name, loading.file, value)
    if (shape := fields.text("reshape_activations", default="none")) != "none":
        raise BadBundle(f"reshape_activations in cfg.json is {shape!r}: it reads attention heads; expected 'none'")


def _k(fields: Fields) -> int:
    """Return k from all its places; 0 if none states it."""
    arguments = fields.inner("activation_fn_kwargs")
    return agreed(("k in cfg.json", fields.k()), ("activation_fn_kwargs in cfg.json", arguments.k("k", "top_k"))) or 0


def _normalisation(files: WeightFiles, fields: Fields) -> str | None:
    """Return how the stream is normalised; before version 6 also true (a constant factor) and false."""
    path = files.weights.absolute().as_posix()
    if corrected := next((kind for name, kind in NORMALISED_REPOSITORIES.items() if name in path), None):
        return corrected
    stated = fields.value("normalize_activations")
    if isinstance(stated, bool):
        return "expected_average_only_in" if stated else "none"
    return stated


def _scaling(files: WeightFiles, fields: Fields) -> Scaling:
    stated = _normalisation(files, fields)
    if stated == "constant_scalar_rescale" and any(fields.number(name) for name in FACTOR):
        return "none"
    if not isinstance(stated, str | None) or stated not in NORMALISED:
        raise BadBundle(
            f"normalize_activations {stated!r} in cfg.json is not supported, or not folded in yet, as at the end of a run"
        )
    return NORMALISED[stated]


def _factor(files: WeightFiles, fields: Fields, only_directions: bool) -> float:
    """Return the constant by which the stream is still to be multiplied.

    SAELens folds it into the weights at the end of a run and then states `none`. Raises BadBundle if it is not folded in
    and not stated.
    """
    scaler = Fields.of(files, "activation_scaler.json")
    factor = agreed(
        ("scaling_factor in activation_scaler.json", scaler.number("scaling_factor")),
        *((f"{name} in cfg.json", fields.number(name)) for name in FACTOR),
    )
    if factor is not None and factor <= 0:
        raise BadBundle(f"the scaling factor of activations must be positive, not {factor:g}")
    if factor or _normalisation(files, fields) != "expected_average_only_in":
        return factor or 1.0
    if only_directions:
        return math.nan
    raise BadBundle(
        "normalize_activations in cfg.json is 'expected_average_only_in': the weights expect a stream multiplied by a "
        "constant, which SAELens folds in at the end of a run and which these files do not state. Write it (SAELens' list of "
        "published SAEs has it as norm_scaling_factor) into "
        "activation_scaler.json beside them, as {\"scaling_factor\": 1.23}; or, if it is folded in, write 'none' into cfg.json"
    )


def _transcodes(where: Sequence[Fields], kind: str) -> bool:
    """Whether it writes to another place than it reads from."""
    out, read = ([f.text(*names) for f in where] for names in (("hook_name_out",), HOOK))
    return kind.endswith("transcoder") or any(name and name not in read for name in out)


def _point(files: WeightFiles, where: Sequence[Fields], *, transcodes: bool) -> HookPoint | None:
    """Return the hook point that an SAE writes to, from names, layer numbers and the folder's name."""
    if transcodes:
        return agreed_point([s for f in where for s in state(f"hook_name_out in {f.file}", f.text("hook_name_out"))])
    stated = [s for f in where for s in state(f"{_spelling(f)} in {f.file}", _name(f))]
    for fields in where:
        stated += _state_transformers_name(fields, strictly=not stated)
    folder = re.match(r"blocks\.\d+\.hook_(?:resid_(?:pre|post)|mlp_out)(?=$|_)", files.folder.absolute().name)
    stated += state("the folder's name", folder[0]) if folder else []
    for fields in where:
        for name in LAYER:
            check_layer(f"{name} in {fields.file}", _layer(fields, name), stated)
    return agreed_point(stated)


def _spelling(fields: Fields) -> str:
    return next((name for name in HOOK if fields.values.get(name)), HOOK[0])


def _name(fields: Fields) -> str | None:
    """Return the name of the hook point; of a run over several layers it is a pattern with `{layer}`."""
    name, layer = fields.text(*HOOK), next((n for n in (_layer(fields, f) for f in LAYER) if n is not None), None)
    return name if name is None or layer is None else name.replace("{layer}", str(layer))


def _layer(fields: Fields, name: str) -> int | None:
    layer = fields.values.get(name)
    return layer if isinstance(layer, int) and not isinstance(layer, bool) else None


def _state_transformers_name(fields: Fields, *, strictly: bool) -> list[Statement]:
    """Return what the module's name states; without `strictly`, nothing where it is not known."""
    name = fields.text("hf_hook_name")
    try:
        return state(f"hf_hook_name in {fields.file}", name)
    except BadBundle:
        if strictly:
            raise
        return []
