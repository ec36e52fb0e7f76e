"""Two linear layers without a layout of their own: Goodfire, DeepSeek-R1's and others."""

import json

import pytest
import torch

from steering.errors import BadBundle
from steering.formats import read_sae
from tests.steering.formats.publisher_files import assert_says_the_same


def goodfire(parts):
    tensors = {"encoder_linear.weight": parts["W_enc"].T, "encoder_linear.bias": parts["b_enc"]}
    return tensors | {"decoder_linear.weight": parts["W_dec"].T, "decoder_linear.bias": parts["b_dec"]}


def test_goodfire_is_read(parts, tmp_path):
    p = parts
    torch.save(goodfire(p), tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth")
    found = read_sae(tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth")
    assert (found.format, found.hook) == ("goodfire", "layers.19")
    assert_says_the_same(found.sae, p["x"], (p["x"] @ p["W_enc"] + p["b_enc"]).relu(), p["W_dec"], p["b_dec"])


def two_layers(folder, p, config=None, **more):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"encoder.weight": p["W_enc"].T, "encoder.bias": p["b_enc"], "decoder.weight": p["W_dec"].T}
    torch.save(tensors | {"decoder.bias": p["b_dec"], **more}, folder / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_deepseek_is_read(parts, tmp_path):
    p = parts
    found = read_sae(two_layers(tmp_path, p))
    assert (found.format, found.hook, found.k) == ("two-linear-layers", "layers.19", None)
    assert_says_the_same(found.sae, p["x"], (p["x"] @ p["W_enc"] + p["b_enc"]).relu(), p["W_dec"], p["b_dec"])


def test_a_configuration_beside_two_layers_is_heeded(parts, tmp_path):
    config = {"activation_fn": "topk", "k": 3, "hook_name": "blocks.19.hook_resid_post", "lr": 1e-4, "d_sae": 10}
    assert read_sae(two_layers(tmp_path, parts, config)).k == 3
    model = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5, "attention_bias": True}
    assert read_sae(two_layers(tmp_path, parts, model)).k is None  # the language model's own


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"activation": "jumprelu"},
            "activation in config.json is 'jumprelu', which is not known; known are relu, topk",
        ),
        ({"act_fn": "tanh-relu"}, "act_fn in config.json is 'tanh-relu'"),
        ({"activation": "topk"}, "does not say how many it keeps"),
        ({"architecture": "gated"}, "architecture in config.json is 'gated'"),
        (
            {"normalize_activations": "layer_norm"},
            "normalize_activations in config.json is 'layer_norm', which may change",
        ),
        ({"apply_b_dec_to_input": True}, "apply_b_dec_to_input in config.json is True"),
        ({"jump_threshold": 0.3}, "jump_threshold in config.json is 0.3"),
        ({"hook_name": "blocks.18.hook_resid_post"}, "hook_name in config.json is .* but the path is 'layers.19'"),
        ({"hook_point": "blocks.19.hook_mid"}, "not the stream after a block"),
    ],
)
def test_what_two_layers_alone_do_not_tell_is_refused_by_name(parts, tmp_path, config, said):
    with pytest.raises(BadBundle, match=said):
        read_sae(two_layers(tmp_path, parts, config))


def test_a_tensor_beside_the_layers_is_refused(parts, tmp_path):
    with pytest.raises(BadBundle, match=r"holds log_threshold \[10\], which this layout does not use"):
        read_sae(two_layers(tmp_path / "two", parts, log_threshold=parts["threshold"]))
    torch.save(goodfire(parts) | {"input_scale": torch.tensor(2.0)}, tmp_path / "x-l19.pth")
    with pytest.raises(BadBundle, match=r"x-l19.pth holds input_scale \[\]"):
        read_sae(tmp_path / "x-l19.pth")
