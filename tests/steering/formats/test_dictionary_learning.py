"""dictionary_learning: all of its classes, and the places that their configurations state."""

import pytest
import torch

from steering.errors import BadBundle
from steering.formats import read_sae
from tests.steering.formats.publisher_files import M, dictionary, jump, says_the_same


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
        says_the_same(found.sae, x, a, p["W_dec"], p["b_dec"])
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
