"""Qwen-Scope: one file for each layer, beside one configuration."""

import json

import pytest
import torch

from steering.errors import BadBundle
from steering.formats import read_sae
from tests.steering.formats.publisher_files import D, M, assert_says_the_same


def qwen(folder, parts, layer=7):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": parts["W_enc"].T, "b_enc": parts["b_enc"], "W_dec": parts["W_dec"].T, "b_dec": parts["b_dec"]}
    torch.save(tensors, folder / f"layer{layer}.sae.pt")
    return folder


def test_qwen_scope_is_read(parts, tmp_path):
    p = parts
    found = read_sae(qwen(tmp_path / "SAE-Res-Qwen3-1.7B-W32K-L0_5", p))
    assert (found.format, found.hook, found.k) == ("qwen-scope", "layers.7", 5)
    assert_says_the_same(found.sae, p["x"], (p["x"] @ p["W_enc"] + p["b_enc"]).relu(), p["W_dec"], p["b_dec"])


def configured(folder, parts, config):
    qwen(folder, parts)
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "layer7.sae.pt"


def test_k_is_read_from_the_configuration_or_asked_for(parts, tmp_path):
    published = {"model_type": "topk_sae", "base_model": "Qwen/Qwen3-1.7B-Base", "d_model": D, "d_sae": M, "k": 4}
    published |= {"num_layers": 28, "hook_point": "resid_post", "dtype": "float32"}
    assert read_sae(configured(tmp_path / "copy", parts, published)).k == 4
    with pytest.raises(BadBundle, match="does not say how many it keeps; give --k"):
        read_sae(qwen(tmp_path / "silent", parts))
    assert read_sae(tmp_path / "silent", k=2).k == 2


@pytest.mark.parametrize(
    ("place", "config", "said"),
    [
        ("SAE-Res-Qwen3-1.7B-W32K-L0_5", {"k": 4}, "k in config.json is 4, but L0 in the path is 5"),
        ("SAE-MLP-Qwen3-1.7B-W32K-L0_5", {}, "the path: its hook point is 'MLP'"),
        ("x", {"k": 4, "hook_point": "mlp_out"}, "hook_point in config.json: its hook point is 'mlp_out'"),
        (
            "x",
            {"k": 4, "model_type": "jumprelu_sae"},
            "model_type in config.json is 'jumprelu_sae', which is not known",
        ),
        ("x", {"k": 4, "activation": "groupmax"}, "activation in config.json is 'groupmax'"),
        ("x", {"k": 4, "normalize_input": True}, "normalize_input in config.json is True, which may change"),
        ("x", {"k": 4, "d_sae": 99}, "d_sae in config.json is 99, but columns of W_dec are 10"),
    ],
)
def test_what_contradicts_or_is_not_supported_is_refused_by_name(parts, tmp_path, place, config, said):
    with pytest.raises(BadBundle, match=said):
        read_sae(configured(tmp_path / place, parts, config))
