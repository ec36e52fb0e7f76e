"""SAE formats: files in each publisher's layout, against the publisher's formulas in plain torch."""

import json
import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from steering.errors import BadBundle, SteeringError
from steering.formats import read_sae

D, M = 6, 10


@pytest.fixture
def parts():
    g = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    return {
        "x": draw(40, D),
        "W_enc": draw(D, M),
        "b_enc": draw(M) * 0.3,
        "W_dec": draw(M, D),
        "b_dec": draw(D),
        "threshold": draw(M).abs() * 0.5,
    }


def jump(pre, threshold):
    return torch.where((pre > threshold) & (pre > 0), pre, 0.0)


def topk(pre, k):
    kept = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, kept.indices, kept.values.relu())


def says_the_same(sae, x, a, W_dec, b_dec):  # a: activations as published
    """The same reconstruction, and the same features on."""
    torch.testing.assert_close(sae.decode(sae.encode(x)), a @ W_dec + b_dec, atol=2e-5, rtol=2e-5)
    assert torch.equal(sae.encode(x) > 0, a > 0)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(M))


def lens(folder, architecture, tensors, **config):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "sae_weights.safetensors")
    about = {"sae_lens_version": "6.54.12", "hook_name": "blocks.3.hook_resid_post"}
    config = {"architecture": architecture, "normalize_activations": "none", "metadata": about, **config}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("subtracts", [True, False])
def test_saelens_standard_and_jumprelu_are_read_with_and_without_b_dec(parts, tmp_path, subtracts):
    p = parts
    pre = (p["x"] - p["b_dec"] * subtracts) @ p["W_enc"] + p["b_enc"]
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    plain = lens(tmp_path / "s", "standard", {n: p[n] for n in names}, apply_b_dec_to_input=subtracts)
    says_the_same(read_sae(plain).sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])
    torch.testing.assert_close(
        read_sae(plain).sae.encode(p["x"]), pre.relu() * read_sae(plain).unit, atol=2e-5, rtol=2e-5
    )
    jumps = lens(tmp_path / "j", "jumprelu", {n: p[n] for n in (*names, "threshold")}, apply_b_dec_to_input=subtracts)
    says_the_same(read_sae(jumps).sae, p["x"], jump(pre, p["threshold"]), p["W_dec"], p["b_dec"])
    assert read_sae(jumps).hook == "layers.3"


def test_saelens_subtracts_b_dec_where_the_configuration_is_silent(parts, tmp_path):
    p = parts
    folder = lens(tmp_path, "standard", {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")})
    assert read_sae(folder).format == "saelens"
    pre = (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    says_the_same(read_sae(folder).sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])


def test_saelens_from_before_version_6_is_read(parts, tmp_path):
    p = parts
    lens(tmp_path, "standard", {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")})
    (tmp_path / "cfg.json").write_text(json.dumps({"hook_name": "blocks.8.hook_resid_pre", "d_in": D, "d_sae": M}))
    found = read_sae(tmp_path)
    assert found.hook == "layers.7"
    pre = (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    says_the_same(found.sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])


def test_saelens_gated_becomes_a_threshold(parts, tmp_path):
    p, r, gate, magnitude = parts, torch.randn(M) * 0.2, torch.randn(M) * 0.3, torch.randn(M) * 0.3
    tensors = {"W_enc": p["W_enc"], "W_dec": p["W_dec"], "b_dec": p["b_dec"]}
    folder = lens(tmp_path, "gated", {**tensors, "b_gate": gate, "b_mag": magnitude, "r_mag": r})
    x = p["x"] - p["b_dec"]
    a = (x @ p["W_enc"] + gate > 0) * (x @ (p["W_enc"] * r.exp()) + magnitude).relu()
    assert (a > 0).any()
    says_the_same(read_sae(folder).sae, p["x"], a, p["W_dec"], p["b_dec"])


@pytest.mark.parametrize("rescale", [True, False])
def test_saelens_batchtopk_checkpoint_is_read_with_its_scale_not_folded_yet(parts, tmp_path, rescale):
    p, s, cut = parts, 1.7, 0.6
    tensors = {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    tensors["topk_threshold"] = torch.tensor(cut, dtype=torch.float64)
    folder = lens(tmp_path, "batchtopk", tensors, rescale_acts_by_decoder_norm=rescale)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": s}))
    pre = (s * p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    length = p["W_dec"].norm(dim=1) if rescale else torch.ones(M)
    a = jump(pre * length, cut) / length
    says_the_same(read_sae(folder).sae, p["x"], a, p["W_dec"] / s, p["b_dec"] / s)
    published = a * length  # what SAELens calls an activation where it rescales
    torch.testing.assert_close(
        read_sae(folder).sae.encode(p["x"]), published * read_sae(folder).unit, atol=2e-5, rtol=2e-5
    )


def test_a_topk_is_calibrated_so_that_it_keeps_k(parts, tmp_path):
    p = parts
    folder = lens(tmp_path, "topk", {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}, k=3)
    found = read_sae(folder)
    assert found.k == 3
    sae = found.sae.calibrated(p["x"], found.k)
    assert (sae.encode(p["x"]) > 0).sum() == 3 * len(p["x"])


def test_gemma_scope_is_read_from_npz_and_from_safetensors(parts, tmp_path):
    p = parts
    a = jump(p["x"] @ p["W_enc"] + p["b_enc"], p["threshold"])
    one = tmp_path / "layer_20" / "width_16k" / "average_l0_71"
    one.mkdir(parents=True)
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    np.savez(one / "params.npz", **{n: p[n].numpy() for n in names})
    found = read_sae(one)
    assert (found.format, found.hook) == ("gemma-scope-1", "layers.20")
    says_the_same(found.sae, p["x"], a, p["W_dec"], p["b_dec"])

    two = tmp_path / "resid_post" / "layer_12_width_16k_l0_medium"
    two.mkdir(parents=True)
    save_file({n.lower(): p[n] for n in names}, two / "params.safetensors")
    found = read_sae(two)
    assert (found.format, found.hook) == ("gemma-scope-2", "layers.12")
    says_the_same(found.sae, p["x"], a, p["W_dec"], p["b_dec"])


def normalised(x, kind):
    """What SAELens reads of a token, and how it puts a reconstruction back."""
    if kind == "layer_norm":
        middle = x.mean(-1, keepdim=True)
        spread = (x - middle).std(-1, keepdim=True)
        return (x - middle) / (spread + 1e-5), lambda y: y * spread + middle
    length = x.norm(dim=-1, keepdim=True)
    return x * (D**0.5 / length), lambda y: y / (D**0.5 / length)


@pytest.mark.parametrize("kind", ["layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("subtracts", [True, False])
def test_saelens_that_normalises_each_token_is_read_and_goes_out_and_in_again(parts, tmp_path, kind, subtracts):
    p, x = parts, parts["x"] * 5 + 3
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    config = {"normalize_activations": kind, "apply_b_dec_to_input": subtracts}
    found = read_sae(lens(tmp_path / "in", "jumprelu", {n: p[n] for n in names}, **config))
    seen, back = normalised(x, kind)
    a = jump((seen - p["b_dec"] * subtracts) @ p["W_enc"] + p["b_enc"], p["threshold"])
    torch.testing.assert_close(found.sae.reconstruct(x), back(a @ p["W_dec"] + p["b_dec"]), atol=2e-4, rtol=2e-4)
    assert torch.equal(found.sae.encode(x) > 0, a > 0)

    found.sae.save(tmp_path / "out", hook="blocks.3.hook_resid_post", model="m")
    out, again = load_file(tmp_path / "out" / "sae_weights.safetensors"), read_sae(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "cfg.json").read_text())["normalize_activations"] == kind
    a = jump(seen @ out["W_enc"] + out["b_enc"], out["threshold"])  # as SAELens reads what was written
    torch.testing.assert_close(back(a @ out["W_dec"] + out["b_dec"]), found.sae.reconstruct(x), atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(again.sae.reconstruct(x), found.sae.reconstruct(x), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"])
def test_a_transcoder_is_read_for_where_it_writes(parts, tmp_path, kind):
    tensors = {"W_enc": torch.randn(4, M), "b_enc": parts["b_enc"], "W_dec": parts["W_dec"], "b_dec": parts["b_dec"]}
    more = {"W_skip": torch.randn(D, 4)} if "skip" in kind else {}
    more |= {"threshold": parts["threshold"]} if "jumprelu" in kind else {}
    about = {"hook_name": "blocks.5.ln2.hook_normalized", "hook_name_out": "blocks.5.hook_mlp_out"}
    found = read_sae(lens(tmp_path, kind, tensors | more, d_out=D, metadata=about))
    assert (found.format, found.hook, found.k, found.sae.reads) == ("saelens", "layers.5", None, False)
    torch.testing.assert_close(found.sae.W_dec * found.unit[:, None], parts["W_dec"])
    torch.testing.assert_close(found.sae.W_dec.norm(dim=1), torch.ones(M))
    with pytest.raises(SteeringError, match="directions only"):
        found.sae.encode(parts["x"])


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("abstopk", {"k": 3, "rescale_acts_by_decoder_norm": False}),
        ("matching_pursuit", {"residual_threshold": 0.01}),
        ("temporal", {"n_heads": 2, "normalize_activations": "constant_scalar_rescale"}),
    ],
)
def test_an_activation_that_one_product_does_not_decide_leaves_the_directions(parts, tmp_path, kind, more):
    factor = 0.5 if kind == "temporal" else 1.0
    tensors = {"W_dec": parts["W_dec"], "b_dec": parts["b_dec"]}
    found = read_sae(lens(tmp_path, kind, tensors, activation_normalization_factor=factor, **more))
    assert (found.hook, found.sae.reads) == ("layers.3", False)
    torch.testing.assert_close(found.sae.W_dec * found.unit[:, None], parts["W_dec"] / factor)


def test_an_sae_of_an_mlps_output_can_be_added_to_the_stream_after_its_block(parts, tmp_path):
    tensors = {n: parts[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    about = {"hook_name": "blocks.7.hook_mlp_out"}
    found = read_sae(lens(tmp_path / "plain", "standard", tensors, metadata=about))
    assert (found.hook, found.sae.reads) == ("layers.7", False)
    torch.testing.assert_close(found.unit, parts["W_dec"].norm(dim=1))
    scaled = lens(tmp_path / "scaled", "topk", tensors, k=3, metadata=about, normalize_activations="layer_norm")
    assert read_sae(scaled).unit.isnan().all()  # a token of the MLP's output has a scale that is not the stream's


def dictionary(folder, kind, tensors, **trainer):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": kind, "layer": 8, **trainer}}))
    return folder


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


def test_sparsify_is_read_as_it_is_and_not_as_others_transpose_it(parts, tmp_path):
    p = parts
    folder = tmp_path / "layers.10"
    folder.mkdir()
    tensors = {"encoder.weight": p["W_enc"].T, "encoder.bias": p["b_enc"], "W_dec": p["W_dec"], "b_dec": p["b_dec"]}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"activation": "topk", "k": 4, "d_in": D, "num_latents": M}))
    found = read_sae(folder)
    assert (found.format, found.hook, found.k) == ("sparsify", "layers.10", 4)
    pre = (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    says_the_same(found.sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])
    (folder / "cfg.json").unlink()
    with pytest.raises(BadBundle, match="does not say how many it keeps"):
        read_sae(folder)
    assert read_sae(folder, k=3).k == 3


def test_openai_relu_goodfire_and_qwen_scope_are_read(parts, tmp_path):
    p = parts
    pre, pre_less = p["x"] @ p["W_enc"] + p["b_enc"], (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    openai = {"encoder.weight": p["W_enc"].T, "decoder.weight": p["W_dec"].T}
    openai |= {"pre_bias": p["b_dec"], "latent_bias": p["b_enc"], "stats_last_nonzero": torch.zeros(M)}
    torch.save({**openai, "activation": "ReLU"}, tmp_path / "6.pt")
    says_the_same(read_sae(tmp_path / "6.pt", hook="layers.6").sae, p["x"], pre_less.relu(), p["W_dec"], p["b_dec"])

    goodfire = {"encoder_linear.weight": p["W_enc"].T, "encoder_linear.bias": p["b_enc"]}
    goodfire |= {"decoder_linear.weight": p["W_dec"].T, "decoder_linear.bias": p["b_dec"]}
    torch.save(goodfire, tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth")
    found = read_sae(tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth")
    assert (found.format, found.hook) == ("goodfire", "layers.19")
    says_the_same(found.sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])

    folder = tmp_path / "SAE-Res-Qwen3-1.7B-W32K-L0_50"
    folder.mkdir()
    qwen = {"W_enc": p["W_enc"].T, "b_enc": p["b_enc"], "W_dec": p["W_dec"].T, "b_dec": p["b_dec"]}
    torch.save(qwen, folder / "layer7.sae.pt")
    found = read_sae(folder)
    assert (found.format, found.hook, found.k) == ("qwen-scope", "layers.7", 50)
    says_the_same(found.sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])


def v5(parts, k=4, **more):
    """The state_dict of a TopK as `openai/sparse_autoencoder` saves it."""
    linear = {"encoder.weight": parts["W_enc"].T.contiguous(), "decoder.weight": parts["W_dec"].T.contiguous()}
    buffers = {n: torch.zeros(M) for n in ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")}
    words = {"activation": "TopK", "activation_state_dict": OrderedDict(k=k, postact_fn="ReLU")}
    return OrderedDict(
        {"pre_bias": parts["b_dec"], "latent_bias": parts["b_enc"], **buffers, **linear, **words, **more}
    )


def as_published(p, x, k):
    """What that repository's autoencoder makes of `x`: its activations and its reconstruction."""
    middle = x.mean(-1, keepdim=True)
    spread = (x - middle).std(-1, keepdim=True)
    pre = ((x - middle) / (spread + 1e-5) - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    a = topk(pre, k)
    return a, (a @ p["W_dec"] + p["b_dec"]) * spread + middle


def test_openai_v5_reconstructs_as_the_publishers_own_code(parts, tmp_path):
    p, x = parts, parts["x"] * 6 + 2
    torch.save(v5(p, k=M), tmp_path / "6.pt")  # so large that no activation is left out
    found = read_sae(tmp_path / "6.pt", hook="layers.6")
    assert (found.format, found.hook, found.k, found.sae.scaling) == ("openai", "layers.6", M, "spread")
    a, wanted = as_published(p, x, M)
    torch.testing.assert_close(found.sae.reconstruct(x), wanted, atol=2e-4, rtol=2e-4)
    scale = x.std(-1, keepdim=True)
    torch.testing.assert_close(found.sae.encode(x), a * found.unit * scale, atol=2e-4, rtol=2e-4)


def test_openai_v5_is_served_with_one_threshold_that_keeps_k(parts, tmp_path):
    p, x = parts, parts["x"] * 6 + 2
    torch.save(v5(p, k=3), tmp_path / "6.pt")
    found = read_sae(tmp_path / "6.pt", hook="layers.6")
    sae = found.sae.calibrated(x, found.k)
    assert found.k == 3
    assert int((sae.encode(x) > 0).sum()) == 3 * len(x)
    ours, theirs = sae.encode(x) > 0, as_published(p, x, 3)[0] > 0
    assert (ours == theirs).float().mean() > 0.8  # one threshold for all tokens is nearly the same choice


def test_openai_says_by_its_path_where_it_reads(parts, tmp_path):
    def put(location, layer):
        folder = tmp_path / location / "autoencoders"
        folder.mkdir(parents=True)
        torch.save(v5(parts), folder / f"{layer}.pt")
        return folder / f"{layer}.pt"

    found = read_sae(put("resid_post_mlp_v5_32k", 6))
    assert (found.hook, found.sae.reads) == ("layers.6", True)
    found = read_sae(put("resid_delta_mlp_v5_128k", 11))
    assert (found.hook, found.sae.reads) == ("layers.11", False)
    torch.testing.assert_close(found.sae.W_dec * parts["W_dec"].norm(dim=1)[:, None], parts["W_dec"])
    for location in ("resid_post_attn_v5_32k", "resid_delta_attn_v5_32k", "mlp_post_act"):
        with pytest.raises(BadBundle, match="not the stream after a block"):
            read_sae(put(location, 6))


def test_openai_with_another_activation_is_refused(parts, tmp_path):
    torch.save(v5(parts, activation_state_dict={"k": 3, "postact_fn": "Identity"}), tmp_path / "6.pt")
    with pytest.raises(BadBundle, match="has the activation TopK Identity; known are ReLU and TopK"):
        read_sae(tmp_path / "6.pt")


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


def test_a_feature_that_writes_nothing_keeps_its_index_and_stays_silent(parts, tmp_path):
    p = parts
    p["W_dec"][4] = 0
    folder = lens(tmp_path, "standard", {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")})
    sae = read_sae(folder).sae
    assert not sae.encode(p["x"])[:, 4].any()
    assert float(sae.W_dec[4].norm()) == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: p.update(W_enc=p["W_enc"][:, :-1]), r"W_enc .* must be \[6, 10\].*not \[6, 9\]"),
        (lambda p: p["b_enc"].fill_(float("nan")), "b_enc .* holds NaN"),
        (lambda p: p.pop("W_dec"), "lacks W_dec; it holds"),
    ],
)
def test_what_does_not_fit_is_named(parts, tmp_path, spoil, said):
    del parts["x"]
    spoil(parts)
    with pytest.raises(BadBundle, match=said):
        read_sae(lens(tmp_path, "jumprelu", parts))


def test_what_cannot_be_read_says_why(parts, tmp_path):
    tensors = {n: parts[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    for name, config, said in (
        ("crosscoder", {}, "'crosscoder' is not known; known are standard, .*as directions only, transcoder"),
        ("standard", {"normalize_activations": "covariance_whitening"}, "not folded in yet"),
        ("standard", {"metadata": {"hook_name": "blocks.3.hook_attn_out"}}, "not the stream after a block"),
        ("standard", {"metadata": {"hook_name": "blocks.3.hook_resid_mid"}}, "not the stream after a block"),
        ("transcoder", {"metadata": {"hook_name_out": "blocks.3.hook_attn_out"}}, "not the stream after a block"),
    ):
        with pytest.raises(BadBundle, match=said):
            read_sae(lens(tmp_path / "lens", name, tensors, **config))
    cut = lens(tmp_path / "cut", "standard", tensors)
    whole = (cut / "sae_weights.safetensors").read_bytes()
    (cut / "sae_weights.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadBundle, match="damaged or cut short"):
        read_sae(cut)
    with pytest.raises(BadBundle, match="there is nothing at"):
        read_sae(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadBundle, match=r"no weights in .*looked for"):
        read_sae(tmp_path / "empty")
    save_file({"odd": torch.zeros(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(BadBundle, match=r"of no known layout: it holds odd\. Known are saelens"):
        read_sae(tmp_path / "odd.safetensors")


class Harmful:
    def __reduce__(self):
        return (print, ("this ran",))


def test_a_pickle_that_would_run_code_is_not_opened(tmp_path, capsys):
    torch.save({"W_enc": Harmful()}, tmp_path / "ae.pt")
    with pytest.raises(BadBundle, match="it could run code"):
        read_sae(tmp_path / "ae.pt")
    assert "this ran" not in capsys.readouterr().out
