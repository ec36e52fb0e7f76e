"""SAELens: every field and tensor that changes the function is used, or refused by name."""

import json
import logging

import pytest
import torch

from steering.errors import BadBundle
from steering.formats import read_sae
from tests.steering.formats.publisher_files import D, M, assert_says_the_same, four, jump, lens, saelens

BEFORE_6 = {"hook_name": "blocks.3.hook_resid_post", "d_in": D, "d_sae": M, "sae_lens_training_version": "3.22.2"}


def relu(p, *, less=True):
    return ((p["x"] - p["b_dec"] * less) @ p["W_enc"] + p["b_enc"]).relu()


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}},
        {"architecture": "standard", "activation_fn": "topk", "activation_fn_kwargs": {"k": 3, "postact_fn": None}},
        {"architecture": "standard", "activation_fn": "TopK", "activation_fn_str": None, "k": 3},
        {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3.0}},
        {"architecture": None, "activation_fn_str": "topk", "k": 3, "activation_fn_kwargs": {"k": 3}},
        {"architecture": "topk", "activation_fn_kwargs": {"k": 3}},
        {"architecture": "topk", "activation_fn_str": "relu", "activation_fn_kwargs": {}, "k": 3},
        {"architecture": "topk", "k": 3},
    ],
)
def test_a_topk_is_one_wherever_its_name_and_its_k_stand(parts, tmp_path, config):
    found = read_sae(saelens(tmp_path, four(parts), {**BEFORE_6, **config}))
    assert found.k == 3
    assert_says_the_same(found.sae, parts["x"], relu(parts), parts["W_dec"], parts["b_dec"])  # all that it may keep
    assert read_sae(tmp_path, k=2).k == 2


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka_batchtopk"])
def test_a_topk_without_a_k_needs_one(parts, tmp_path, architecture):
    folder = lens(tmp_path, architecture, four(parts))
    with pytest.raises(BadBundle, match="does not say how many it keeps; give --k"):
        read_sae(folder)
    assert read_sae(folder, k=3).k == 3


@pytest.mark.parametrize("threshold", [{}, {"topk_threshold": torch.tensor(0.0, dtype=torch.float64)}])
@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_a_batchtopk_that_has_no_threshold_yet_is_calibrated_to_its_k(parts, tmp_path, architecture, threshold):
    found = read_sae(lens(tmp_path, architecture, four(parts) | threshold, k=3.0))
    assert found.k == 3
    sae = found.sae.calibrated(parts["x"], found.k)
    assert (sae.encode(parts["x"]) > 0).sum() == 3 * len(parts["x"])


def test_a_topk_is_rescaled_by_its_decoder_only_where_its_configuration_says_so(parts, tmp_path):
    cut = {"topk_threshold": torch.tensor(0.6)}
    found = read_sae(lens(tmp_path, "batchtopk", four(parts) | cut, k=3))
    pre = (parts["x"] - parts["b_dec"]) @ parts["W_enc"] + parts["b_enc"]
    assert_says_the_same(found.sae, parts["x"], jump(pre, 0.6), parts["W_dec"], parts["b_dec"])


@pytest.mark.parametrize(
    ("architecture", "config", "said"),
    [
        (
            "standard",
            {"activation_fn_str": "tanh-relu"},
            r"activation_fn_str in cfg\.json is 'tanh-relu'.*known are relu, topk",
        ),
        ("standard", {"activation_fn": "gelu"}, "activation_fn in cfg.json is 'gelu'"),
        ("standard", {"activation_fn": 3}, "activation_fn in cfg.json must be a string, not 3"),
        ("standard", {"activation_fn": "relu", "activation_fn_str": "topk"}, "is 'relu', but .* is 'topk'; correct"),
        ("gated", {"activation_fn_str": "topk"}, "'topk', which is not known; known are relu$"),
        ("jumprelu", {"activation_fn_str": "tanh-relu"}, "known are relu, jumprelu"),
        ("topk", {"k": 3, "activation_fn_kwargs": {"k": 4}}, "k in cfg.json is 3, but activation_fn_kwargs .* is 4"),
        ("topk", {"k": 0}, "k in cfg.json must be positive, not 0"),
        ("topk", {"k": "many"}, "k in cfg.json must be a number, not 'many'"),
        ("topk", {"k": 11}, r"has 10 features; a token cannot keep 11"),
        (
            "topk",
            {"activation_fn_kwargs": {"k": 3, "postact_fn": "Identity"}},
            "postact_fn .* is 'Identity'; only ReLU",
        ),
        ("topk", {"activation_fn_kwargs": {"k": 3, "signed": True}}, "signed .* no negative activations"),
        ("topk", {"activation_fn_kwargs": {"k": 3, "temperature": 2.0}}, "temperature .* is not known"),
        (
            "standard",
            {"normalize_activations": "batch_norm"},
            "normalize_activations 'batch_norm' in cfg.json is not supported",
        ),
        ("standard", {"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input in cfg.json must be true or false"),
        (
            "standard",
            {"d_sae": 20},
            "d_sae in cfg.json is 20, but rows of W_dec are 10: the files are not of the same SAE",
        ),
        ("standard", {"d_in": 7}, "d_in in cfg.json is 7, but columns"),
        (
            "standard",
            {"scale_inputs": True},
            "scale_inputs in cfg.json is True, which may change what the SAE computes",
        ),
        ("standard", {"input_scale": 3.0}, "input_scale in cfg.json is 3.0, which may change what the SAE computes"),
        ("standard", {"metadata": {"use_input_whitening": True}}, "use_input_whitening in cfg.json .metadata. is True"),
    ],
)
def test_what_changes_the_function_and_is_not_supported_is_refused_by_name(parts, tmp_path, architecture, config, said):
    gated = {"b_gate": parts["b_enc"] - 1, "b_mag": parts["b_enc"] + 1, "r_mag": parts["b_enc"] + 2}
    tensors = four(parts) | {"jumprelu": {"threshold": parts["threshold"]}, "gated": gated}.get(architecture, {})
    with pytest.raises(BadBundle, match=said):
        read_sae(lens(tmp_path, architecture, tensors, **config))


def test_nulls_dtypes_and_fields_of_the_training_change_nothing(parts, tmp_path, caplog):
    for number, config in enumerate(
        (
            {
                "normalize_activations": None,
                "apply_b_dec_to_input": None,
                "activation_fn_kwargs": None,
                "k": None,
                "metadata": None,
            },
            {
                "dtype": "torch.bfloat16",
                "device": "cuda:0",
                "l1_coefficient": 5,
                "lp_norm": 1.0,
                "decoder_init_norm": 0.1,
            },
            {
                "dtype": None,
                "normalize_sae_decoder": True,
                "scale_sparsity_penalty_by_decoder_norm": True,
                "noise_factor": 0.2,
            },
            {
                "finetuning_scaling_factor": False,
                "input_scale": None,
                "use_input_whitening": False,
                "skip": "none",
                "act_scale": 1.0,
            },
            {"jumprelu_init_threshold": 0.01, "matryoshka_widths": [4, 10], "mse_loss_normalization": "dense_batch"},
        )
    ):
        config = {**BEFORE_6, **config}
        found = read_sae(saelens(tmp_path / str(number), four(parts), config))
        assert_says_the_same(found.sae, parts["x"], relu(parts), parts["W_dec"], parts["b_dec"])
    assert not caplog.messages


def test_a_field_that_is_not_known_is_noted(parts, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        read_sae(lens(tmp_path, "standard", four(parts), colour="blue"))
    assert caplog.messages == ["colour in cfg.json is not known and was ignored"]


@pytest.mark.parametrize("stated", [True, "expected_average_only_in"])
def test_a_constant_factor_is_folded_in_or_asked_for(parts, tmp_path, stated):
    p, s = parts, 1.7
    folder = lens(tmp_path, "standard", four(p), normalize_activations=stated)
    with pytest.raises(
        BadBundle, match=r"'expected_average_only_in'.*activation_scaler\.json .*\"scaling_factor\": 1\.23.*'none'"
    ):
        read_sae(folder)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": None}))
    with pytest.raises(BadBundle, match="these files do not state"):
        read_sae(folder)

    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": s}))
    a = ((s * p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]).relu()
    assert_says_the_same(read_sae(folder).sae, p["x"], a, p["W_dec"] / s, p["b_dec"] / s)
    stated_here = lens(tmp_path / "cfg", "standard", four(p), normalize_activations=stated, norm_scaling_factor=s)
    assert_says_the_same(read_sae(stated_here).sae, p["x"], a, p["W_dec"] / s, p["b_dec"] / s)
    (stated_here / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 2.0}))
    with pytest.raises(
        BadBundle, match=r"scaling_factor in activation_scaler.json is 2.0, but norm_scaling_factor .* is 1.7"
    ):
        read_sae(stated_here)


def test_directions_need_no_factor_but_have_no_unit_without_it(parts, tmp_path):
    about = {"hook_name": "blocks.7.hook_mlp_out"}
    config = {"metadata": about, "normalize_activations": "expected_average_only_in"}
    found = read_sae(lens(tmp_path, "standard", four(parts), **config))
    assert (found.hook, found.sae.reads) == ("layers.7", False)
    assert found.unit.isnan().all()


def test_false_is_no_normalisation(parts, tmp_path):
    config = {**BEFORE_6, "normalize_activations": False}
    found = read_sae(saelens(tmp_path, four(parts), config))
    assert_says_the_same(found.sae, parts["x"], relu(parts), parts["W_dec"], parts["b_dec"])


def test_a_normalisation_that_saelens_corrects_for_a_repository_is_corrected(parts, tmp_path):
    folder = tmp_path / "models--JoshEngels--Mistral-7B-Residual-Stream-SAEs" / "snapshots" / "1" / "mistral_7b_layer_8"
    config = {"hook_name": "blocks.8.hook_resid_pre", "model_name": "mistral-7b", "normalize_activations": "none"}
    found = read_sae(saelens(folder, four(parts), config))
    assert (found.hook, found.sae.scaling) == ("layers.7", "length")


@pytest.mark.parametrize("name", ["scaling_factor", "finetuning_scaling_factor"])
def test_the_factors_of_a_finetuning_are_on_the_decoder(parts, tmp_path, name):
    p, factor = parts, torch.linspace(0.5, 2, M)
    found = read_sae(lens(tmp_path, "standard", four(p) | {name: factor}, finetuning_scaling_factor=True))
    assert_says_the_same(found.sae, p["x"], relu(p), p["W_dec"] * factor[:, None], p["b_dec"])
    torch.testing.assert_close(found.sae.encode(p["x"]), relu(p) * found.unit, atol=2e-5, rtol=2e-5)


def test_a_threshold_may_be_stored_as_its_logarithm(parts, tmp_path):
    p = parts
    found = read_sae(lens(tmp_path, "jumprelu", four(p) | {"log_threshold": p["threshold"].log()}))
    pre = (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    assert_says_the_same(found.sae, p["x"], jump(pre, p["threshold"]), p["W_dec"], p["b_dec"])


@pytest.mark.parametrize("name", ["threshold", "W_skip", "r_mag", "input_mean"])
def test_a_tensor_that_the_architecture_does_not_use_is_refused(parts, tmp_path, name):
    with pytest.raises(
        BadBundle, match=rf"sae_weights.safetensors holds {name} \[10\], which this layout does not use"
    ):
        read_sae(lens(tmp_path, "standard", four(parts) | {name: parts["threshold"] + 1}))


def test_counters_and_empty_biases_are_left_out(parts, tmp_path):
    more = {"n_forward_passes_since_fired": torch.ones(M), "b_gate": torch.zeros(M)}
    assert_says_the_same(
        read_sae(lens(tmp_path, "standard", four(parts) | more)).sae,
        parts["x"],
        relu(parts),
        parts["W_dec"],
        parts["b_dec"],
    )


def test_quantised_weights_are_refused(parts, tmp_path):
    tensors = four(parts) | {"W_enc": (parts["W_enc"] * 10).to(torch.int8)}
    with pytest.raises(BadBundle, match=r"W_enc of sae_weights.safetensors is of torch.int8: quantised"):
        read_sae(lens(tmp_path, "standard", tensors))
