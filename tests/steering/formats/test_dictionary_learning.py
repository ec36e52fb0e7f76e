"""dictionary_learning: all of its classes, and the places that their configurations state."""

import json

import pytest
import torch

from steering.errors import BadBundle
from steering.formats import read_sae
from tests.steering.formats.publisher_files import M, assert_says_the_same, dictionary, jump


def test_every_class_of_dictionary_learning_is_read(parts, tmp_path):
    p = parts
    x, less = p["x"], p["x"] - p["b_dec"]
    linear = {"encoder.weight": p["W_enc"].T, "encoder.bias": p["b_enc"], "decoder.weight": p["W_dec"].T}
    matrices = {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    r, gate, magnitude = torch.randn(M) * 0.2, torch.randn(M) * 0.3, torch.randn(M) * 0.3
    gated = {"r_mag": r, "gate_bias": gate, "mag_bias": magnitude, "decoder_bias": p["b_dec"]}
    gates = (less @ p["W_enc"] + gate > 0) * (less @ (p["W_enc"] * r.exp()) + magnitude).relu()
    pre, pre_less = x @ p["W_enc"] + p["b_enc"], less @ p["W_enc"] + p["b_enc"]
    cut = torch.tensor(0.5)
    cases = {
        "AutoEncoder": ({**linear, "bias": p["b_dec"]}, pre_less.relu()),
        "AutoEncoderNew": ({**linear, "decoder.bias": p["b_dec"]}, pre.relu()),
        "GatedAutoEncoder": ({**{k: v for k, v in linear.items() if k != "encoder.bias"}, **gated}, gates),
        "JumpReluAutoEncoder": ({**matrices, "threshold": p["threshold"]}, jump(pre, p["threshold"])),
        "BatchTopKSAE": (
            {**linear, "b_dec": p["b_dec"], "k": torch.tensor(3), "threshold": cut},
            jump(pre_less, cut),
        ),
        "MatryoshkaBatchTopKSAE": (
            {**matrices, "k": torch.tensor(3), "threshold": cut, "group_sizes": torch.tensor([4, 6])},
            jump(pre_less, cut),
        ),
    }
    for kind, (tensors, a) in cases.items():
        found = read_sae(dictionary(tmp_path / kind, kind, tensors))
        assert (found.format, found.hook, found.k) == ("dictionary-learning", "layers.8", None), kind
        assert_says_the_same(found.sae, x, a, p["W_dec"], p["b_dec"])
    tensors = {**linear, "b_dec": p["b_dec"], "k": torch.tensor(3), "threshold": torch.tensor(-1.0)}
    assert read_sae(dictionary(tmp_path / "topk", "AutoEncoderTopK", tensors)).k == 3


def test_dictionary_learning_of_another_place_is_not_taken_for_the_stream(parts, tmp_path):
    tensors = {n: parts[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
    there = dictionary(tmp_path / "there", "JumpReluAutoEncoder", tensors, submodule_name="resid_post_layer_8")
    assert read_sae(there).hook == "layers.8"
    for name in ("mlp_out_layer_8", "attention_layer8"):
        with pytest.raises(BadBundle, match=f"'{name}', which is not the stream"):
            read_sae(dictionary(tmp_path / name, "JumpReluAutoEncoder", tensors, submodule_name=name))


def test_a_crash_backup_of_dictionary_learning_is_told_apart(parts, tmp_path):
    backup = {"step": 12, "ae": {"W_enc": parts["W_enc"]}, "optimizer": {}, "config": {}, "norm_factor": 2.0}
    with pytest.raises(BadBundle, match=r"backup of an unfinished run .step 12"):
        read_sae(dictionary(tmp_path, "BatchTopKSAE", backup))


def linear(p):
    tensors = {"encoder.weight": p["W_enc"].T, "encoder.bias": p["b_enc"], "decoder.weight": p["W_dec"].T}
    return tensors | {"b_dec": p["b_dec"]}


@pytest.mark.parametrize("tensors", [{}, {"k": torch.tensor(3)}, {"threshold": torch.tensor(-1.0)}])
@pytest.mark.parametrize("kind", ["AutoEncoderTopK", "BatchTopKSAE"])
def test_k_is_read_from_the_tensors_or_the_configuration(parts, tmp_path, kind, tensors):
    p = parts
    found = read_sae(dictionary(tmp_path, kind, linear(p) | tensors, k=3))
    assert found.k == 3
    pre = (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    assert_says_the_same(found.sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])
    sae = found.sae.calibrated(p["x"], found.k)
    assert (sae.encode(p["x"]) > 0).sum() == 3 * len(p["x"])


def test_a_k_that_is_missing_or_stated_differently_is_asked_for(parts, tmp_path):
    folder = dictionary(tmp_path / "none", "AutoEncoderTopK", linear(parts))
    with pytest.raises(BadBundle, match="does not say how many it keeps; give --k"):
        read_sae(folder)
    assert read_sae(folder, k=4).k == 4
    with pytest.raises(BadBundle, match=r"k in ae.pt is 3, but k in config.json .trainer. is 5"):
        read_sae(dictionary(tmp_path / "two", "AutoEncoderTopK", linear(parts) | {"k": torch.tensor(3)}, k=5))


def test_early_files_name_only_the_trainer_or_spell_the_class_otherwise(parts, tmp_path):
    early = linear(parts) | {"bias": parts["b_dec"]}
    del early["b_dec"]
    folder = dictionary(tmp_path / "a", None, early, trainer_class="StandardTrainer", submodule_name="resid_out_layer8")
    found = read_sae(folder)
    assert (found.format, found.hook) == ("dictionary-learning", "layers.8")
    p = parts
    assert_says_the_same(
        found.sae, p["x"], ((p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]).relu(), p["W_dec"], p["b_dec"]
    )
    matrices = {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    matrices |= {"k": torch.tensor(3), "threshold": torch.tensor(0.5), "group_sizes": torch.tensor([4, 6])}
    assert read_sae(dictionary(tmp_path / "b", "MatroyshkaBatchTopKSAE", matrices)).k is None
    with pytest.raises(BadBundle, match=r"trainer_class 'NewTrainer' .* is not known"):
        read_sae(dictionary(tmp_path / "c", None, early, trainer_class="NewTrainer"))


@pytest.mark.parametrize(
    ("trainer", "buffer", "place", "hook"),
    [
        ({"submodule_name": "resid_post_layer_8"}, {"io": "out"}, "x", "layers.8"),
        ({"submodule_name": "resid_pre_layer_8"}, {"io": "in"}, "x", "layers.7"),
        ({"submodule_name": "resid_pre_layer_8"}, {}, "x", "layers.7"),
        ({"submodule_name": "resid_post"}, {"io": None}, "resid_post_layer_8/trainer_1", "layers.8"),
        ({"submodule_name": None}, {"io": "in"}, "x", "layers.7"),
        ({"submodule_name": None, "layer": "8"}, {}, "x", "layers.8"),
        ({"submodule_name": "gpt_neox.layers.8"}, {}, "x", "layers.8"),
        ({"layer": None}, {}, "resid_post_layer_3/trainer_0", "layers.3"),
        ({"layer": None}, {}, "x", None),
    ],
)
def test_the_hook_point_is_read_from_layer_submodule_side_and_folder(parts, tmp_path, trainer, buffer, place, hook):
    assert read_sae(placed(tmp_path / place, parts, trainer, buffer)).hook == hook


def placed(folder, parts, trainer, buffer):
    tensors = {n: parts[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
    dictionary(folder, "JumpReluAutoEncoder", tensors)
    trainer = {"dict_class": "JumpReluAutoEncoder", "layer": 8, **trainer}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": buffer}))
    return folder


@pytest.mark.parametrize(
    ("trainer", "buffer", "place", "said"),
    [
        (
            {"submodule_name": "resid_post_layer_9"},
            {},
            "x",
            "submodule_name .* is 'resid_post_layer_9' .*, but layer in",
        ),
        ({}, {}, "resid_post_layer_9/trainer_0", "the path is 'resid_post_layer_9' .* but layer in .* is '8'"),
        ({}, {"io": "in_and_out"}, "x", "io in config.json .buffer. is 'in_and_out': a transcoder"),
        ({}, {"io": "sideways"}, "x", "io in config.json .buffer. is 'sideways', which is not known"),
        ({"submodule_name": "attn_out_layer_8"}, {}, "x", "'attn_out_layer_8', which is not the stream"),
        ({}, {}, "mlp_out_layer8/trainer_0", "the path: its hook point is 'mlp_out_layer8'"),
        ({"submodule_name": "embed"}, {}, "x", "'embed', which is not the stream"),
        ({"layer": [3, 8]}, {}, "x", "layer in config.json .trainer. is .3, 8.; an SAE reads one layer"),
        ({"layer": 0, "submodule_name": "resid_pre_layer_0"}, {}, "x", "not the stream after a block"),
        ({"input_norm": "layer"}, {}, "x", "input_norm in config.json .trainer. is 'layer', which may change"),
        ({"dict_size": 20}, {}, "x", "dict_size in config.json .trainer. is 20, but features are 10"),
        ({"lm_name": "bigscience/bloom-560m"}, {}, "x", "lm_name in config.json is .*cannot be served"),
    ],
)
def test_what_contradicts_or_cannot_be_read_is_refused_by_name(parts, tmp_path, trainer, buffer, place, said):
    with pytest.raises(BadBundle, match=said):
        read_sae(placed(tmp_path / place, parts, trainer, buffer))


def test_a_tensor_of_another_class_is_refused(parts, tmp_path):
    with pytest.raises(BadBundle, match=r"ae.pt holds input_scale \[10\], which this layout does not use"):
        read_sae(dictionary(tmp_path, "BatchTopKSAE", linear(parts) | {"input_scale": parts["threshold"]}, k=3))


def test_all_fields_that_its_trainers_write_are_known(parts, tmp_path, caplog):
    trainer = {
        "trainer_class": "MatryoshkaBatchTopKTrainer",
        "lr": 2e-4,
        "steps": 10,
        "auxk_alpha": 0.03,
        "warmup_steps": 3,
    }
    trainer |= {"decay_start": 8, "threshold_beta": 0.999, "threshold_start_step": 5, "top_k_aux": 3, "seed": 1}
    trainer |= {
        "group_fractions": [0.4, 0.6],
        "group_weights": [1, 1],
        "group_sizes": [4, 6],
        "k": 3,
        "device": "cuda:0",
    }
    trainer |= {
        "lm_name": "EleutherAI/pythia-70m",
        "wandb_name": "x",
        "activation_dim": 6,
        "dict_size": 10,
        "l1_penalty": 0.1,
    }
    trainer |= {
        "sparsity_penalty": 1,
        "p_start": 1,
        "p_end": 0.2,
        "anneal_start": 3,
        "resample_steps": 9,
        "bandwidth": 0.001,
    }
    assert read_sae(placed(tmp_path, parts, trainer, {"io": "out", "ctx_len": 128})).sae.reads
    assert not caplog.messages


def test_a_checkpoint_has_its_configuration_in_the_folder_above(parts, tmp_path):
    run = tmp_path / "resid_post_layer_8" / "trainer_0"
    dictionary(run, "BatchTopKSAE", linear(parts), k=3)
    (run / "checkpoints").mkdir()
    torch.save(linear(parts) | {"threshold": torch.tensor(0.5)}, run / "checkpoints" / "ae_1000.pt")
    found = read_sae(run / "checkpoints" / "ae_1000.pt")
    assert (found.format, found.hook, found.k) == ("dictionary-learning", "layers.8", None)
