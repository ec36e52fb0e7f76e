"""Llama Scope, R1 and Llamascopium: the same fields in three layouts."""

import json
import math

import torch
from safetensors.torch import save_file

from steering.formats import read_sae
from tests.steering.formats.publisher_files import D, jump, says_the_same


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
    says_the_same(found.sae, p["x"], a, p["W_dec"] / s, p["b_dec"] / s)

    r1 = tmp_path / "400M" / "L15R"
    r1.mkdir(parents=True)
    log = {"log_jumprelu_threshold": p["threshold"].log()}
    save_file({k: v.contiguous() for k, v in (linear | log).items()}, r1 / "sae_weights.safetensors")
    found = read_sae(r1)
    assert (found.format, found.hook) == ("llama-scope-r1", "layers.15")
    a = jump(p["x"] @ p["W_enc"] + p["b_enc"], p["threshold"])
    says_the_same(found.sae, p["x"], a, p["W_dec"], p["b_dec"])

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
    says_the_same(found.sae, p["x"], a, p["W_dec"] / s, p["b_dec"] / s)
