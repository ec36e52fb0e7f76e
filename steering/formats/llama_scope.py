"""Llama Scope, Llama Scope R1, and the current layout of their library, Llamascopium.

The three share the fields of one configuration, whose names did not change.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, imported
from steering.formats.fields import Fields, refuse_unknown_tensors
from steering.formats.fold import RawSae
from steering.formats.hook_points import HookPoint, Statement, agreed_point, state, stream_in_path, unsteerable
from steering.formats.weight_files import WeightFiles

LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
R1_THRESHOLD = "log_jumprelu_threshold"
THRESHOLD = f"activation_function.{R1_THRESHOLD}"
NORM = "dataset_average_activation_norm"
ACTIVATIONS = {k: k for k in ("relu", "jumprelu", "topk", "batchtopk")}
READ = {
    *("hook_point_in", "hook_point_out", "act_fn", "jump_relu_threshold", "top_k", "norm_activation", NORM),
    *("sparsity_include_decoder_norm", "use_decoder_bias", "use_glu_encoder", "apply_decoder_bias_to_pre_encoder"),
    *("sae_type", "d_model", "d_sae", "use_triton_kernel"),
}
HARMLESS = {
    *("decoder_exactly_fixed_norm", "use_batch_norm_mse", "expansion_factor", "jumprelu_threshold_window"),
    *("jumprelu_threshold_grad_scale", "remove_gradient_parallel_to_decoder_directions", "strict_loading"),
    *("initial_k", "sparsity_threshold_for_triton_spmm_kernel", "decoder_bias_init_method"),
}


@dataclass(frozen=True)
class _Function:
    """What the configuration states of the function, but for the matrices."""

    threshold: Tensor
    k: int | None
    by_length: bool
    subtracts: bool
    scale_in: float
    scale_out: float


def _is_llama_scope(files: WeightFiles) -> bool:
    own = {"jump_relu_threshold", "norm_activation", "hook_point_in"}
    return files.has(*LINEAR[:3]) and R1_THRESHOLD not in files.tensors and bool(own & {*_hyperparams(files).values})


def _hyperparams(files: WeightFiles) -> Fields:
    """Return the fields of the first files, or those of the library's next version, which has the same tensors."""
    for name in ("hyperparams.json", "../hyperparams.json", "config.json"):
        if (fields := Fields.of(files, name)).values:
            return fields
    return Fields({}, "hyperparams.json")


def _llama_scope(files: WeightFiles) -> ImportedSae:
    fields = _hyperparams(files)
    refuse_unknown_tensors(files, (*LINEAR, THRESHOLD), prefixes=(NORM,))
    raw = _linear(files, fields)
    log = files.tensors.get(THRESHOLD)
    one = torch.as_tensor(fields.number("jump_relu_threshold") or 0.0)
    threshold = one if log is None else log.float().exp()
    function = _function(files, fields, threshold, default_norm="dataset-wise", by_length=True)
    return _imported(files, "llama-scope", fields, raw, function)


def _is_llama_scope_r1(files: WeightFiles) -> bool:
    return files.has("encoder.weight", "decoder.weight", R1_THRESHOLD)


def _llama_scope_r1(files: WeightFiles) -> ImportedSae:
    fields = Fields.of(files, "config.json")
    refuse_unknown_tensors(files, (*LINEAR, R1_THRESHOLD), prefixes=(NORM,))
    raw = _linear(files, fields)
    (log,) = files.take(R1_THRESHOLD)
    function = _function(files, fields, log.exp(), by_length=False)
    return _imported(files, "llama-scope-r1", fields, raw, function)


def _is_llamascopium(files: WeightFiles) -> bool:
    return files.has("W_E", "b_E", "W_D")


def _llamascopium(files: WeightFiles) -> ImportedSae:
    fields = Fields.of(files, "config.json")
    if "W_E_glu" in files.tensors:
        raise BadBundle(f"{files.weights.name} has a gated encoder (W_E_glu), which has no equivalent threshold")
    refuse_unknown_tensors(files, ("W_E", "b_E", "W_D", "b_D", THRESHOLD), prefixes=(NORM,))
    W_enc, b_enc, W_dec = files.take("W_E", "b_E", "W_D")
    raw = RawSae(W_enc, b_enc, W_dec, _decoder_bias(files, fields, "b_D", W_dec.shape[-1]))
    log = files.tensors.get(THRESHOLD)
    function = _function(files, fields, None if log is None else log.float().exp(), by_length=True)
    return _imported(files, "llamascopium", fields, raw, function)


def _linear(files: WeightFiles, fields: Fields) -> RawSae:
    W_enc, b_enc, W_dec = files.take("encoder.weight", "encoder.bias", "decoder.weight")
    return RawSae(W_enc.T, b_enc, W_dec.T, _decoder_bias(files, fields, "decoder.bias", len(W_dec)))


def _decoder_bias(files: WeightFiles, fields: Fields, name: str, d: int) -> Tensor:
    """Return the decoder's bias; zeros if the configuration states that there is none."""
    if not fields.flag("use_decoder_bias", default=True) and name not in files.tensors:
        return torch.zeros(d)
    return files.take(name)[0]


def _imported(files: WeightFiles, layout: str, fields: Fields, raw: RawSae, function: _Function) -> ImportedSae:
    fields.check_size("d_model", len(raw.b_dec), "columns of the decoder")
    fields.check_size("d_sae", len(raw.b_enc), "features")
    raw = replace(
        raw,
        threshold=function.threshold,
        subtracts=function.subtracts,
        scale_in=function.scale_in,
        scale_out=function.scale_out,
        by_length=function.by_length,
    )
    return imported(files, layout, _point(files, fields), raw, k=function.k, about=dict(fields.values))


def _function(
    files: WeightFiles,
    fields: Fields,
    threshold: Tensor | None,
    *,
    by_length: bool,
    default_norm: str = "inference",
) -> _Function:
    """Read the activation, its threshold or k, and the scales. Raises BadBundle that names what is not supported."""
    fields.refuse_unknown(READ | HARMLESS)
    fields.refuse("use_glu_encoder", because="a gated encoder has no equivalent threshold")
    if (kind := fields.text("sae_type", default="sae")) != "sae":
        raise BadBundle(f"sae_type in {fields.file} is {kind!r}; only 'sae' is read")
    activation = fields.choice("act_fn", ACTIVATIONS, "relu" if threshold is None else "jumprelu")
    if activation != "jumprelu" and threshold is not None and threshold.ndim:
        raise BadBundle(
            f"act_fn in {fields.file} is {activation!r}, but {files.weights.name} holds thresholds of a jumprelu"
        )
    if activation == "jumprelu" and threshold is None:
        threshold = _stated_threshold(files, fields)
    k = (fields.k("top_k") or 0) if activation.endswith("topk") else None
    into, out = _scales(files, fields, default_norm)
    return _Function(
        threshold if activation == "jumprelu" and threshold is not None else torch.zeros(()),
        k,
        fields.flag("sparsity_include_decoder_norm", default=by_length),
        fields.flag("apply_decoder_bias_to_pre_encoder", default=False),
        into,
        out,
    )


def _stated_threshold(files: WeightFiles, fields: Fields) -> Tensor:
    """Return one threshold for all features. Raises BadBundle if a JumpReLU has none."""
    stated = fields.number("jump_relu_threshold")
    if stated is None:
        raise BadBundle(f"act_fn in {fields.file} is 'jumprelu', but {files.weights.name} lacks {THRESHOLD}")
    return torch.as_tensor(stated)


def _scales(files: WeightFiles, fields: Fields, default: str) -> tuple[float, float]:
    """Return √d over the average norm of the stream, of input and output; 1 where it is folded in (`inference`).

    Raises BadBundle for scales that depend on the token, and for scales that the files do not state.
    """
    known = {"dataset-wise": True, "inference": False, "none": False}
    if not fields.choice("norm_activation", known, default):
        return 1.0, 1.0
    into, d = _norm(files, fields, "in"), _width(files)
    out = _norm(files, fields, "out") or into
    if into is None and default == "dataset-wise" and "norm_activation" not in fields.values:
        return 1.0, 1.0
    if not into or not out:
        raise BadBundle(
            f"norm_activation in {fields.file} is 'dataset-wise': {files.weights.name} was trained on a scaled stream but does "
            f'not state the scale; write {{"{NORM}": {{"in": …, "out": …}}}}, the average norm of the stream, into {fields.file}, '
            "or 'inference' if it is folded in"
        )
    return math.sqrt(d) / into, math.sqrt(d) / out


def _norm(files: WeightFiles, fields: Fields, side: str) -> float | None:
    """Return the average norm at the input or output: of the configuration, or of the tensor named after the hook point.

    Raises BadBundle if the two contradict each other.
    """
    stored = {n.removeprefix(f"{NORM}."): float(t) for n, t in files.tensors.items() if n.startswith(f"{NORM}.")}
    only = next(iter(stored.values())) if len(stored) == 1 else None
    tensor, stated = stored.get(fields.text(f"hook_point_{side}") or "", only), fields.inner(NORM).number(side)
    if stated is None or tensor is None:
        return tensor if stated is None else stated
    if not math.isclose(stated, tensor, rel_tol=0.01):  # one of them may be bfloat16
        raise BadBundle(f"{NORM} in {fields.file} is {stated:g}, but that in {files.weights.name} is {tensor:g}")
    return stated


def _width(files: WeightFiles) -> int:
    name = next(n for n in ("W_E", "encoder.weight") if n in files.tensors)
    return files.tensors[name].shape[0 if name == "W_E" else 1]


def _point(files: WeightFiles, fields: Fields) -> HookPoint | None:
    """Return the hook point of the configuration and the path, such as `Llama3_1-8B-Base-L15R-8x` or `L15R`.

    R is the stream, M an MLP's output, TC a transcoder to it, A attention's output.
    """
    path = _state_path(files)
    out = state(f"hook_point_out in {fields.file}", fields.text("hook_point_out"))
    if out and out[0].point.mlp_out:
        return agreed_point([*out, *path])
    into = state(f"hook_point_in in {fields.file}", fields.text("hook_point_in"))
    return agreed_point([*into, *out, *path])


def _state_path(files: WeightFiles) -> list[Statement]:
    """Return the hook point in the path. Raises BadBundle for attention's output."""
    if (layer := files.number(r"[-/]L(\d+)A[-/]")) is not None:
        raise unsteerable("the path", f"L{layer}A")
    for kind in ("M", "TC"):
        if (layer := files.number(rf"[-/]L(\d+){kind}[-/]")) is not None:
            return [Statement("the path", f"L{layer}{kind}", HookPoint(layer, mlp_out=True))]
    return stream_in_path(files, r"[-/]L(\d+)R[-/]")


LLAMA_SCOPE = Format("llama-scope", _is_llama_scope, _llama_scope)
LLAMA_SCOPE_R1 = Format("llama-scope-r1", _is_llama_scope_r1, _llama_scope_r1)
LLAMASCOPIUM = Format("llamascopium", _is_llamascopium, _llamascopium)
