"""Other people's layouts, written as they write them, against their own formulas in plain torch."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from steering.errors import BadBundle
from steering.formats import read

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
    says_the_same(read(plain).sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])
    torch.testing.assert_close(read(plain).sae.encode(p["x"]), pre.relu() * read(plain).unit, atol=2e-5, rtol=2e-5)
    jumps = lens(tmp_path / "j", "jumprelu", {n: p[n] for n in (*names, "threshold")}, apply_b_dec_to_input=subtracts)
    says_the_same(read(jumps).sae, p["x"], jump(pre, p["threshold"]), p["W_dec"], p["b_dec"])
    assert read(jumps).hook == "layers.3"


def test_saelens_subtracts_b_dec_where_the_configuration_is_silent(parts, tmp_path):
    p = parts
    folder = lens(tmp_path, "standard", {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")})
    pre = (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    says_the_same(read(folder).sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])


def test_saelens_from_before_version_6_is_read(parts, tmp_path):
    p = parts
    lens(tmp_path, "standard", {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")})
    (tmp_path / "cfg.json").write_text(json.dumps({"hook_name": "blocks.8.hook_resid_pre", "d_in": D, "d_sae": M}))
    found = read(tmp_path)
    assert found.hook == "layers.7"
    pre = (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    says_the_same(found.sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])


def test_saelens_gated_becomes_a_threshold(parts, tmp_path):
    p, r, gate, magnitude = parts, torch.randn(M) * 0.2, torch.randn(M) * 0.3, torch.randn(M) * 0.3
    tensors = {"W_enc": p["W_enc"], "W_dec": p["W_dec"], "b_dec": p["b_dec"]}
    folder = lens(tmp_path, "gated", {**tensors, "b_gate": gate, "b_mag": magnitude, "r_mag": r})
    x = p["x"] - p["b_dec"]
    a = (x @ p["W_enc"] + gate > 0) * (x @ (p["W_enc"] * r.exp()) + magnitude).relu()
    says_the_same(read(folder).sae, p["x"], a, p["W_dec"], p["b_dec"])


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
    says_the_same(read(folder).sae, p["x"], a, p["W_dec"] / s, p["b_dec"] / s)
    published = a * length  # what SAELens calls an activation where it rescales
    torch.testing.assert_close(read(folder).sae.encode(p["x"]), published * read(folder).unit, atol=2e-5, rtol=2e-5)


def test_a_topk_is_calibrated_so_that_it_keeps_k(parts, tmp_path):
    p = parts
    folder = lens(tmp_path, "topk", {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}, k=3)
    found = read(folder)
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
    found = read(one)
    assert (found.format, found.hook) == ("gemma-scope-1", "layers.20")
    says_the_same(found.sae, p["x"], a, p["W_dec"], p["b_dec"])

    two = tmp_path / "resid_post" / "layer_12_width_16k_l0_medium"
    two.mkdir(parents=True)
    save_file({n.lower(): p[n] for n in names}, two / "params.safetensors")
    found = read(two)
    assert (found.format, found.hook) == ("gemma-scope-2", "layers.12")
    says_the_same(found.sae, p["x"], a, p["W_dec"], p["b_dec"])


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
        found = read(dictionary(tmp_path / kind, kind, tensors))
        assert (found.format, found.hook, found.k) == ("dictionary-learning", "layers.8", None), kind
        says_the_same(found.sae, x, a, p["W_dec"], p["b_dec"])
    tensors = {**linear, "b_dec": p["b_dec"], "k": torch.tensor(3), "threshold": torch.tensor(-1.0)}
    assert read(dictionary(tmp_path / "topk", "AutoEncoderTopK", tensors)).k == 3


def test_a_crash_backup_of_dictionary_learning_is_told_apart(parts, tmp_path):
    backup = {"step": 12, "ae": {"W_enc": parts["W_enc"]}, "optimizer": {}, "config": {}, "norm_factor": 2.0}
    with pytest.raises(BadBundle, match=r"backup of an unfinished run .step 12"):
        read(dictionary(tmp_path, "BatchTopKSAE", backup))


def test_sparsify_is_read_as_it_is_and_not_as_others_transpose_it(parts, tmp_path):
    p = parts
    folder = tmp_path / "layers.10"
    folder.mkdir()
    tensors = {"encoder.weight": p["W_enc"].T, "encoder.bias": p["b_enc"], "W_dec": p["W_dec"], "b_dec": p["b_dec"]}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"activation": "topk", "k": 4, "d_in": D, "num_latents": M}))
    found = read(folder)
    assert (found.format, found.hook, found.k) == ("sparsify", "layers.10", 4)
    pre = (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    says_the_same(found.sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])


def test_openai_relu_goodfire_and_qwen_scope_are_read(parts, tmp_path):
    p = parts
    pre, pre_less = p["x"] @ p["W_enc"] + p["b_enc"], (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    openai = {"encoder.weight": p["W_enc"].T, "decoder.weight": p["W_dec"].T}
    openai |= {"pre_bias": p["b_dec"], "latent_bias": p["b_enc"], "stats_last_nonzero": torch.zeros(M)}
    torch.save({**openai, "activation": "ReLU"}, tmp_path / "6.pt")
    says_the_same(read(tmp_path / "6.pt", hook="layers.6").sae, p["x"], pre_less.relu(), p["W_dec"], p["b_dec"])
    torch.save({**openai, "activation": "TopK"}, tmp_path / "7.pt")
    with pytest.raises(BadBundle, match="cannot be folded"):
        read(tmp_path / "7.pt")

    goodfire = {"encoder_linear.weight": p["W_enc"].T, "encoder_linear.bias": p["b_enc"]}
    goodfire |= {"decoder_linear.weight": p["W_dec"].T, "decoder_linear.bias": p["b_dec"]}
    torch.save(goodfire, tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth")
    found = read(tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth")
    assert (found.format, found.hook) == ("goodfire", "layers.19")
    says_the_same(found.sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])

    folder = tmp_path / "SAE-Res-Qwen3-1.7B-W32K-L0_50"
    folder.mkdir()
    qwen = {"W_enc": p["W_enc"].T, "b_enc": p["b_enc"], "W_dec": p["W_dec"].T, "b_dec": p["b_dec"]}
    torch.save(qwen, folder / "layer7.sae.pt")
    found = read(folder)
    assert (found.format, found.hook, found.k) == ("qwen-scope", "layers.7", 50)
    says_the_same(found.sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])


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
    found = read(old)
    assert (found.format, found.hook) == ("llama-scope", "layers.15")
    says_the_same(found.sae, p["x"], a, p["W_dec"] / s, p["b_dec"] / s)

    r1 = tmp_path / "400M" / "L15R"
    r1.mkdir(parents=True)
    log = {"log_jumprelu_threshold": p["threshold"].log()}
    save_file({k: v.contiguous() for k, v in (linear | log).items()}, r1 / "sae_weights.safetensors")
    found = read(r1)
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
    found = read(now)
    assert (found.format, found.hook) == ("llamascopium", "layers.9")
    a = jump(pre * length, p["threshold"]) / length
    says_the_same(found.sae, p["x"], a, p["W_dec"] / s, p["b_dec"] / s)


def test_a_feature_that_writes_nothing_keeps_its_index_and_stays_silent(parts, tmp_path):
    p = parts
    p["W_dec"][4] = 0
    folder = lens(tmp_path, "standard", {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")})
    sae = read(folder).sae
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
        read(lens(tmp_path, "jumprelu", parts))


def test_what_cannot_be_read_says_why(parts, tmp_path):
    tensors = {n: parts[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    for name, config, said in (
        ("transcoder", {}, "not a residual-stream SAE"),
        ("standard", {"normalize_activations": "layer_norm"}, "changes with every token"),
        ("standard", {"metadata": {"hook_name": "blocks.3.hook_mlp_out"}}, "not the stream after a block"),
    ):
        with pytest.raises(BadBundle, match=said):
            read(lens(tmp_path / "lens", name, tensors, **config))
    cut = lens(tmp_path / "cut", "standard", tensors)
    whole = (cut / "sae_weights.safetensors").read_bytes()
    (cut / "sae_weights.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadBundle, match="damaged or cut short"):
        read(cut)
    with pytest.raises(BadBundle, match="there is nothing at"):
        read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadBundle, match=r"no weights in .*looked for"):
        read(tmp_path / "empty")
    save_file({"odd": torch.zeros(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(BadBundle, match=r"of no known layout: it holds odd\. Known are saelens"):
        read(tmp_path / "odd.safetensors")


class Harmful:
    def __reduce__(self):
        return (print, ("this ran",))


def test_a_pickle_that_would_run_code_is_not_opened(tmp_path, capsys):
    torch.save({"W_enc": Harmful()}, tmp_path / "ae.pt")
    with pytest.raises(BadBundle, match="it could run code"):
        read(tmp_path / "ae.pt")
    assert "this ran" not in capsys.readouterr().out
