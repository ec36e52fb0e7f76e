"""Gemma Scope 1 and 2: SAEs of every place in the model."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from steering.errors import BadBundle
from steering.formats import read_sae
from tests.steering.formats.publisher_files import M, assert_says_the_same, jump

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
SECOND = {
    "width": M,
    "model_name": "google/gemma-3-4b-pt",
    "architecture": "jump_relu",
    "l0": 150,
    "affine_connection": False,
}


def first(folder, parts, **more):
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{n: parts[n].numpy() for n in NAMES}, **more)
    return folder


def second(folder, parts, config=None, **more):
    folder.mkdir(parents=True)
    save_file({n.lower(): parts[n] for n in NAMES} | more, folder / "params.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps({**SECOND, **config}))
    return folder


def hooks(out, into=None, kind="sae"):
    names = {side: f"model.layers.{name}" for side, name in (("in", into or out), ("out", out))}
    return {"hf_hook_point_in": names["in"], "hf_hook_point_out": names["out"], "type": kind}


def test_gemma_scope_is_read_from_npz_and_from_safetensors(parts, tmp_path):
    p = parts
    a = jump(p["x"] @ p["W_enc"] + p["b_enc"], p["threshold"])
    found = read_sae(first(tmp_path / "layer_20" / "width_16k" / "average_l0_71", p))
    assert (found.format, found.hook) == ("gemma-scope-1", "layers.20")
    assert_says_the_same(found.sae, p["x"], a, p["W_dec"], p["b_dec"])

    found = read_sae(second(tmp_path / "resid_post" / "layer_12_width_16k_l0_medium", p))
    assert (found.format, found.hook) == ("gemma-scope-2", "layers.12")
    assert_says_the_same(found.sae, p["x"], a, p["W_dec"], p["b_dec"])


@pytest.mark.parametrize(
    ("place", "hook", "reads"),
    [
        ("google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82", "layers.12", True),
        ("hub/models--google--gemma-scope-9b-it-res/snapshots/1/layer_9/width_16k/average_l0_82", "layers.9", True),
        ("att/mlp/copies/layer_12/width_16k/average_l0_82", "layers.12", True),  # the user's own folders say nothing
        ("google/gemma-scope-2b-pt-transcoders/layer_5/width_16k/average_l0_58", "layers.5", False),
        (
            "hub/models--google--gemma-scope-2b-pt-transcoders/snapshots/1/layer_5/width_16k/average_l0_58",
            "layers.5",
            False,
        ),
        ("google/gemma-scope-2b-pt-mlp/layer_3/width_16k/average_l0_71", "layers.3", False),
        ("transcoders/layer_5/width_16k/average_l0_58", "layers.5", False),
    ],
)
def test_the_first_gemma_scope_says_by_its_path_where_it_writes(parts, tmp_path, place, hook, reads):
    found = read_sae(first(tmp_path / place, parts))
    assert (found.hook, found.sae.reads) == (hook, reads)
    torch.testing.assert_close(found.sae.W_dec * parts["W_dec"].norm(dim=1)[:, None], parts["W_dec"])


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("google/gemma-scope-2b-pt-att/layer_3/width_16k/average_l0_71", "att"),
        ("hub/models--google--gemma-scope-2b-pt-att/snapshots/1/layer_3/width_16k/average_l0_71", "att"),
        ("google/gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", "embedding"),
        ("attn_out/layer_3/width_16k/average_l0_71", "attn_out"),
    ],
)
def test_the_first_gemma_scope_of_another_place_is_refused(parts, tmp_path, place, name):
    with pytest.raises(BadBundle, match=f"the path: its hook point is '{name}', which is not the stream"):
        read_sae(first(tmp_path / place, parts), hook="layers.3")


@pytest.mark.parametrize(
    ("place", "config", "layer", "reads"),
    [
        ("resid_post_all/layer_17_width_16k_l0_big", hooks("17.output"), 17, True),
        ("mine", hooks("17.output"), 17, True),
        ("mlp_out/layer_17_width_16k_l0_big", hooks("17.post_feedforward_layernorm.output"), 17, False),
        ("mlp_out_all/layer_17_width_16k_l0_big", None, 17, False),
        (
            "transcoder/layer_17_width_16k_l0_big_affine",
            hooks("17.post_feedforward_layernorm.output", "17.pre_feedforward_layernorm.output", "transcoder"),
            17,
            False,
        ),
    ],
)
def test_the_second_gemma_scope_is_read_where_its_configuration_and_its_path_say(
    parts, tmp_path, place, config, layer, reads
):
    more = {"affine_skip_connection": torch.ones(6, 6)} if "affine" in place else {}
    found = read_sae(second(tmp_path / place, parts, config, **more))
    assert (found.hook, found.sae.reads) == (f"layers.{layer}", reads)


@pytest.mark.parametrize(
    ("place", "config", "said"),
    [
        (
            "attn_out/layer_17_width_16k_l0_big",
            hooks("17.self_attn.o_proj.input"),
            "self_attn.o_proj.input', which is not",
        ),
        ("attn_out/layer_17_width_16k_l0_big", None, "the path: its hook point is 'attn_out'"),
        ("mine", hooks("17.output", "16.output"), "hf_hook_point_in in config.json.*not the stream"),
        ("mine", hooks("17.output", kind="transcoder"), "is a transcoder: its output is at another hook point"),
        ("mine", hooks("{5,9}.output", kind="crosscoder"), "type in config.json is 'crosscoder', which is not known"),
        ("clt/width_262k_l0_big", None, "its hook point is 'clt'"),
        (
            "resid_post/layer_12_width_16k_l0_big",
            hooks("17.output"),
            "hf_hook_point_out in config.json .* but the path is",
        ),
        (
            "mlp_out/layer_17_width_16k_l0_big",
            hooks("17.output"),
            "the stream after layer 17.*the output of the MLP of layer 17",
        ),
        ("mine", {"architecture": "relu"}, "architecture in config.json is 'relu'"),
        ("mine", {"input_norm": 2.0}, "input_norm in config.json is 2.0, which may change"),
    ],
)
def test_the_second_gemma_scope_of_another_place_is_refused(parts, tmp_path, place, config, said):
    with pytest.raises(BadBundle, match=said):
        read_sae(second(tmp_path / place, parts, config))


def test_an_affine_connection_that_nothing_else_explains_is_a_transcoder(parts, tmp_path):
    with pytest.raises(BadBundle, match="is a transcoder"):
        read_sae(second(tmp_path / "mine", parts, affine_skip_connection=torch.ones(6, 6)))
    with pytest.raises(BadBundle, match="holds gate"):
        read_sae(second(tmp_path / "gate", parts, gate=torch.ones(M)))


def test_a_finetuned_gemma_scope_has_its_factors_on_the_decoder(parts, tmp_path):
    p, factor = parts, torch.linspace(0.5, 2, M)
    found = read_sae(first(tmp_path / "layer_3", p, scaling_factor=factor.numpy()))
    a = jump(p["x"] @ p["W_enc"] + p["b_enc"], p["threshold"])
    assert_says_the_same(found.sae, p["x"], a, p["W_dec"] * factor[:, None], p["b_dec"])
