"""Llama Scope, Llama Scope R1, and the current layout of its library, Llamascopium."""

import math

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, fold, hook_in_path, linear, stream_hook
from steering.formats.fold import RawSae
from steering.formats.weight_files import Config, WeightFiles


def _is_llama_scope(files: WeightFiles) -> bool:
    return files.has("encoder.weight", "decoder.weight") and "jump_relu_threshold" in _hyperparams(files)


def _hyperparams(files: WeightFiles) -> Config:
    return files.json("hyperparams.json") or files.json("../hyperparams.json") or {}


def _llama_scope(files: WeightFiles) -> ImportedSae:
    config = _hyperparams(files)
    W_enc, b_enc, W_dec, b_dec = files.take("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
    norms = config.get("dataset_average_activation_norm") or {}
    scaled = config.get("norm_activation", "dataset-wise") == "dataset-wise" and "in" in norms
    into = math.sqrt(len(b_dec)) / float(norms["in"]) if scaled else 1.0
    out = math.sqrt(len(b_dec)) / float(norms.get("out", norms["in"])) if scaled else 1.0
    by_length = bool(config.get("sparsity_include_decoder_norm", True))
    loose = RawSae(W_enc.T, b_enc, W_dec.T, b_dec, float(config["jump_relu_threshold"]), False, into, out, by_length)
    point = str(config.get("hook_point_in", ""))
    hook = stream_hook(point) if point else hook_in_path(files, r"-L(\d+)R-")
    return ImportedSae(fold(loose, files.weights.name), "llama-scope", hook, about=config)


def _is_llama_scope_r1(files: WeightFiles) -> bool:
    return files.has("encoder.weight", "decoder.weight", "log_jumprelu_threshold")


def _llama_scope_r1(files: WeightFiles) -> ImportedSae:
    config = files.json("config.json") or {}
    (log,) = files.take("log_jumprelu_threshold")
    loose = linear(files, None, subtracts=False, threshold=log.exp())
    return ImportedSae(
        fold(loose, files.weights.name), "llama-scope-r1", hook_in_path(files, r"/L(\d+)R/"), about=config
    )


def _is_llamascopium(files: WeightFiles) -> bool:
    return files.has("W_E", "b_E", "W_D", "b_D")


def _llamascopium(files: WeightFiles) -> ImportedSae:
    config = files.json("config.json") or {}
    if "W_E_glu" in files.tensors:
        raise BadBundle(f"{files.weights.name} has a gated encoder (W_E_glu), which has no equivalent threshold")
    kind = str(config.get("act_fn", "relu")).lower()
    if kind not in ("relu", "jumprelu", "topk", "batchtopk"):
        raise BadBundle(f"act_fn {kind!r} is not known; known are relu, jumprelu, topk and batchtopk")
    W_enc, b_enc, W_dec, b_dec = files.take("W_E", "b_E", "W_D", "b_D")
    threshold = files.tensors.get("activation_function.log_jumprelu_threshold")
    scale = _dataset_scale(files, config, len(b_dec))
    by_length = bool(config.get("sparsity_include_decoder_norm", True))
    loose = RawSae(
        W_enc,
        b_enc,
        W_dec,
        b_dec,
        0.0 if threshold is None else threshold.float().exp(),
        False,
        scale,
        scale,
        by_length,
    )
    point = str(config.get("hook_point_in", ""))
    k = int(config["top_k"]) if kind.endswith("topk") and "top_k" in config else None
    folded = fold(loose, files.weights.name)
    return ImportedSae(folded, "llamascopium", stream_hook(point) if point else None, k, config)


def _dataset_scale(files: WeightFiles, config: Config, d: int) -> float:
    """√d over the average norm of the stream; 1 where it is already folded in (`inference`)."""
    if config.get("norm_activation", "inference") != "dataset-wise":
        return 1.0
    found = [float(t) for n, t in files.tensors.items() if n.startswith("dataset_average_activation_norm.")]
    if not found:
        raise BadBundle(f"{files.weights.name} was trained on a scaled stream but does not state the scale")
    return math.sqrt(d) / found[0]


LLAMA_SCOPE = Format("llama-scope", _is_llama_scope, _llama_scope)
LLAMA_SCOPE_R1 = Format("llama-scope-r1", _is_llama_scope_r1, _llama_scope_r1)
LLAMASCOPIUM = Format("llamascopium", _is_llamascopium, _llamascopium)
