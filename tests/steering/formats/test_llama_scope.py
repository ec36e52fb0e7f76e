"""Llama Scope, R1 and Llamascopium: the same fields in three layouts."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from steering.errors import BadBundle
from steering.formats import read_sae
from tests.steering.formats.publisher_files import D, M, assert_says_the_same, jump


def test_llama_scope_is_read_in_its_three_layouts(parts, tmp_path):
    p, cut, average = parts, 0.7, 3.0
    s = math.sqrt(D) / average
    length = p["W_dec"].norm(dim=1)
    linear = {"encoder.weight": p["W_enc"].T, "decoder.weight": p["W_dec"].T}
    linear |= {"encoder.bias": p["b_enc"], "decoder.bias": p["b_dec"]}
    old = tmp_path / "Llama3_1-8B-Base-L15R-8x"
    (old / "checkpoints").mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in linear.items()}, old / "checkpoints" / "final.safetensors")
    config = {"jump_relu_threshold": cut, "dataset_average_activation_norm": {"in": average, "out": average}}
    (old / "hyperparams.json").write_text(json.dumps({**config, "hook_point_in": "blocks.15.hook_resid_post"}))
    pre = s * p["x"] @ p["W_enc"] + p["b_enc"]
    a = jump(pre * length, cut) / length
    found = read_sae(old)
    assert (found.format, found.hook) == ("llama-scope", "layers.15")
    assert_says_the_same(found.sae, p["x"], a, p["W_dec"] / s, p["b_dec"] / s)

    r1 = tmp_path / "400M" / "L15R"
    r1.mkdir(parents=True)
    log = {"log_jumprelu_threshold": p["threshold"].log()}
    save_file({k: v.contiguous() for k, v in (linear | log).items()}, r1 / "sae_weights.safetensors")
    found = read_sae(r1)
    assert (found.format, found.hook) == ("llama-scope-r1", "layers.15")
    a = jump(p["x"] @ p["W_enc"] + p["b_enc"], p["threshold"])
    assert_says_the_same(found.sae, p["x"], a, p["W_dec"], p["b_dec"])

    now = tmp_path / "now"
    now.mkdir()
    tensors = {"W_E": p["W_enc"], "b_E": p["b_enc"], "W_D": p["W_dec"], "b_D": p["b_dec"]}
    tensors["activation_function.log_jumprelu_threshold"] = p["threshold"].log()
    tensors["dataset_average_activation_norm.blocks.9.hook_resid_post"] = torch.tensor(average)
    save_file(tensors, now / "sae_weights.safetensors")
    config = {"act_fn": "jumprelu", "norm_activation": "dataset-wise", "hook_point_in": "blocks.9.hook_resid_post"}
    (now / "config.json").write_text(json.dumps(config))
    found = read_sae(now)
    assert (found.format, found.hook) == ("llamascopium", "layers.9")
    a = jump(pre * length, p["threshold"]) / length
    assert_says_the_same(found.sae, p["x"], a, p["W_dec"] / s, p["b_dec"] / s)


FIRST = {
    **{"device": "cuda:0", "seed": 42, "dtype": "torch.bfloat16", "hook_point_in": "blocks.15.hook_resid_post"},
    **{"hook_point_out": "blocks.15.hook_resid_post", "use_decoder_bias": True, "expansion_factor": 8, "lp": 1},
    **{"apply_decoder_bias_to_pre_encoder": False, "d_model": D, "d_sae": M, "bias_init_method": "all_zero"},
    **{"act_fn": "jumprelu", "jump_relu_threshold": 0.7, "norm_activation": "dataset-wise", "init_encoder_norm": None},
    **{"dataset_average_activation_norm": {"in": 3.0, "out": 3.0}, "decoder_exactly_fixed_norm": False, "top_k": 4},
    **{"sparsity_include_decoder_norm": True, "use_glu_encoder": False, "init_decoder_norm": 0.5, "k_warmup_steps": 9},
    **{"init_encoder_with_decoder_transpose": True, "l1_coefficient": 8e-5, "l1_coefficient_warmup_steps": 78125},
}
"""The fields of fnlp/Llama3_1-8B-Base-LXR-8x/…/hyperparams.json."""
NOW = {
    "act_fn": "jumprelu",
    "norm_activation": "inference",
    "hook_point_in": "blocks.9.hook_resid_post",
    "sae_type": "sae",
}
S = math.sqrt(D) / 3


def first(place, p, bias=True, **config):
    (place / "checkpoints").mkdir(parents=True)
    tensors = {"encoder.weight": p["W_enc"].T, "decoder.weight": p["W_dec"].T, "encoder.bias": p["b_enc"]}
    tensors |= {"decoder.bias": p["b_dec"]} if bias else {}
    save_file({k: v.contiguous() for k, v in tensors.items()}, place / "checkpoints" / "final.safetensors")
    (place / "hyperparams.json").write_text(json.dumps({**FIRST, **config}))
    return place


def now(folder, p, config=None, **more):
    folder.mkdir(parents=True)
    tensors = {"W_E": p["W_enc"], "b_E": p["b_enc"], "W_D": p["W_dec"], "b_D": p["b_dec"], **more}
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "sae_weights.safetensors")
    (folder / "config.json").write_text(json.dumps({**NOW, **(config or {})}))
    return folder


def test_all_fields_that_the_first_llama_scope_publishes_are_known(parts, tmp_path, caplog):
    p = parts
    found = read_sae(first(tmp_path / "Llama3_1-8B-Base-L15R-8x", p))
    assert (found.hook, found.k, caplog.messages) == ("layers.15", None, [])
    length = p["W_dec"].norm(dim=1)
    a = jump((S * p["x"] @ p["W_enc"] + p["b_enc"]) * length, 0.7) / length
    assert_says_the_same(found.sae, p["x"], a, p["W_dec"] / S, p["b_dec"] / S)


@pytest.mark.parametrize("act_fn", ["topk", "TopK", "batchtopk"])
def test_a_topk_of_llama_scope_is_no_relu(parts, tmp_path, act_fn):
    assert read_sae(first(tmp_path / "a", parts, act_fn=act_fn, jump_relu_threshold=0.0)).k == 4
    assert read_sae(now(tmp_path / "b", parts, {"act_fn": act_fn, "top_k": 3})).k == 3
    with pytest.raises(BadBundle, match="does not say how many it keeps"):
        read_sae(now(tmp_path / "c", parts, {"act_fn": act_fn}))


def test_a_relu_of_llama_scope_has_no_threshold(parts, tmp_path):
    p = parts
    found = read_sae(first(tmp_path, p, act_fn="relu", sparsity_include_decoder_norm=False))
    assert_says_the_same(
        found.sae, p["x"], (S * p["x"] @ p["W_enc"] + p["b_enc"]).relu(), p["W_dec"] / S, p["b_dec"] / S
    )


def test_a_bias_before_the_encoder_and_a_missing_one_are_heeded(parts, tmp_path):
    p, more = parts, {"act_fn": "relu", "norm_activation": "inference"}
    found = read_sae(first(tmp_path / "a", p, apply_decoder_bias_to_pre_encoder=True, **more))
    assert_says_the_same(
        found.sae, p["x"], ((p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]).relu(), p["W_dec"], p["b_dec"]
    )
    found = read_sae(first(tmp_path / "b", p, bias=False, use_decoder_bias=False, **more))
    assert_says_the_same(found.sae, p["x"], (p["x"] @ p["W_enc"] + p["b_enc"]).relu(), p["W_dec"], torch.zeros(D))


@pytest.mark.parametrize(
    ("place", "config", "hook", "reads"),
    [
        ("Llama3_1-8B-Base-L15R-8x", {"hook_point_in": None, "hook_point_out": None}, "layers.15", True),
        ("mine", {"hook_point_out": None}, "layers.15", True),
        (
            "Llama3_1-8B-Base-L8M-8x",
            dict.fromkeys(("hook_point_in", "hook_point_out"), "blocks.8.hook_mlp_out"),
            "layers.8",
            False,
        ),
        (
            "Llama3_1-8B-Base-L8TC-8x",
            {"hook_point_in": "blocks.8.ln2.hook_normalized", "hook_point_out": "blocks.8.hook_mlp_out"},
            "layers.8",
            False,
        ),
    ],
)
def test_llama_scope_is_read_where_its_configuration_and_its_path_say(parts, tmp_path, place, config, hook, reads):
    found = read_sae(first(tmp_path / place, parts, **config))
    assert (found.hook, found.sae.reads) == (hook, reads)
    torch.testing.assert_close(found.sae.W_dec * parts["W_dec"].norm(dim=1)[:, None], parts["W_dec"])


@pytest.mark.parametrize(
    ("place", "config", "said"),
    [
        ("Llama3_1-8B-Base-L15A-8x", {}, "the path: its hook point is 'L15A'"),
        (
            "mine",
            dict.fromkeys(("hook_point_in", "hook_point_out"), "blocks.8.hook_attn_out"),
            "not the stream after a block",
        ),
        ("Llama3_1-8B-Base-L14R-8x", {}, "hook_point_in in hyperparams.json is .* but the path is 'layers.14'"),
        ("mine", {"hook_point_out": "blocks.16.hook_resid_post"}, "hook_point_in .* but hook_point_out"),
        ("mine", {"act_fn": "softplus"}, "act_fn in hyperparams.json is 'softplus', which is not known"),
        (
            "mine",
            {"norm_activation": "token-wise"},
            "norm_activation in hyperparams.json is 'token-wise', which is not known",
        ),
        ("mine", {"dataset_average_activation_norm": None}, "does not state the scale; write .*or 'inference'"),
        ("mine", {"dataset_average_activation_norm": {"in": None, "out": 3.0}}, "does not state the scale"),
        ("mine", {"use_glu_encoder": True}, "use_glu_encoder in hyperparams.json is True: a gated encoder"),
        (
            "mine",
            {"decoder_norm_threshold": 0.1},
            "decoder_norm_threshold in hyperparams.json is 0.1, which may change",
        ),
        ("mine", {"d_sae": 99}, "d_sae in hyperparams.json is 99, but features are 10"),
    ],
)
def test_what_of_llama_scope_contradicts_or_is_not_supported_is_refused_by_name(parts, tmp_path, place, config, said):
    with pytest.raises(BadBundle, match=said):
        read_sae(first(tmp_path / place, parts, **config))


@pytest.mark.parametrize(
    ("config", "more", "said"),
    [
        ({}, {}, "act_fn in config.json is 'jumprelu', but sae_weights.safetensors lacks activation_function.log_jump"),
        ({"sae_type": "crosscoder"}, {}, "sae_type in config.json is 'crosscoder'"),
        ({"act_fn": "relu", "norm_activation": "dataset-wise"}, {}, "does not state the scale"),
        ({"act_fn": "relu"}, {"W_E_glu": torch.ones(D, M)}, "has a gated encoder"),
        ({"act_fn": "relu"}, {"W_skip": torch.ones(D, D)}, r"holds W_skip \[6, 6\]"),
        ({"act_fn": "relu"}, {"b_D": None}, "lacks b_D"),
        (
            {"act_fn": "relu"},
            {"activation_function.log_jumprelu_threshold": torch.ones(M)},
            "is 'relu', but .* holds thresholds",
        ),
        (
            {"act_fn": "relu", "norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": 3.0}},
            {"dataset_average_activation_norm.blocks.9.hook_resid_post": torch.tensor(9.0)},
            "dataset_average_activation_norm in config.json is 3, but that in sae_weights.safetensors is 9",
        ),
    ],
)
def test_what_of_llamascopium_is_missing_or_not_supported_is_refused_by_name(parts, tmp_path, config, more, said):
    with pytest.raises(BadBundle, match=said):
        read_sae(now(tmp_path / "now", parts, config, **more))


def test_llamascopium_has_one_threshold_or_one_for_each_feature_and_norms_of_two_points(parts, tmp_path):
    p = parts
    found = read_sae(now(tmp_path / "one", p, {"jump_relu_threshold": 0.4, "sparsity_include_decoder_norm": False}))
    assert_says_the_same(found.sae, p["x"], jump(p["x"] @ p["W_enc"] + p["b_enc"], 0.4), p["W_dec"], p["b_dec"])

    config = {"act_fn": "relu", "norm_activation": "dataset-wise"}
    norms = {f"dataset_average_activation_norm.blocks.{n}.hook_resid_post": torch.tensor(float(n)) for n in (3, 9)}
    s = math.sqrt(D) / 9
    found = read_sae(now(tmp_path / "two", p, config, **norms))
    assert_says_the_same(
        found.sae, p["x"], (s * p["x"] @ p["W_enc"] + p["b_enc"]).relu(), p["W_dec"] / s, p["b_dec"] / s
    )


def test_r1_is_scaled_where_its_configuration_says_so(parts, tmp_path):
    p, folder = parts, tmp_path / "400M" / "L15R"
    folder.mkdir(parents=True)
    tensors = {"encoder.weight": p["W_enc"].T, "decoder.weight": p["W_dec"].T, "encoder.bias": p["b_enc"]}
    tensors |= {"decoder.bias": p["b_dec"], "log_jumprelu_threshold": p["threshold"].log()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "sae_weights.safetensors")
    config = {"act_fn": "jumprelu", "norm_activation": "dataset-wise", "hook_point_in": "blocks.15.hook_resid_post"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadBundle, match="does not state the scale"):
        read_sae(folder)
    norm = {"dataset_average_activation_norm": {"in": 3.0, "out": 3.0}}
    (folder / "config.json").write_text(json.dumps({**config, **norm}))
    a = jump(S * p["x"] @ p["W_enc"] + p["b_enc"], p["threshold"])
    assert_says_the_same(read_sae(folder).sae, p["x"], a, p["W_dec"] / S, p["b_dec"] / S)
    (folder / "config.json").write_text(json.dumps({**config, **norm, "hook_point_in": "blocks.3.hook_resid_post"}))
    with pytest.raises(BadBundle, match=r"but the path is 'layers.15'"):
        read_sae(folder)


def test_the_version_between_the_first_and_the_current_one_is_read(parts, tmp_path):
    """The tensors of the first, and config.json in place of hyperparams.json."""
    p = parts
    tensors = {"encoder.weight": p["W_enc"].T, "decoder.weight": p["W_dec"].T, "encoder.bias": p["b_enc"]}
    tensors |= {"decoder.bias": p["b_dec"], "activation_function.log_jumprelu_threshold": p["threshold"].log()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "sae_weights.safetensors")
    config = {**FIRST, "jump_relu_threshold": 0.0, "sparsity_include_decoder_norm": False, "sae_type": "sae"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_sae(tmp_path)
    assert (found.format, found.hook) == ("llama-scope", "layers.15")
    a = jump(S * p["x"] @ p["W_enc"] + p["b_enc"], p["threshold"])
    assert_says_the_same(found.sae, p["x"], a, p["W_dec"] / S, p["b_dec"] / S)
