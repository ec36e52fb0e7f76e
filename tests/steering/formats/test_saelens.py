"""SAELens: files of finished runs and of checkpoints, against its formulas."""

import json

import pytest
import torch
from safetensors.torch import load_file

from steering.errors import SteeringError
from steering.formats import read_sae
from tests.steering.formats.publisher_files import D, M, assert_says_the_same, jump, lens


@pytest.mark.parametrize("subtracts", [True, False])
def test_saelens_standard_and_jumprelu_are_read_with_and_without_b_dec(parts, tmp_path, subtracts):
    p = parts
    pre = (p["x"] - p["b_dec"] * subtracts) @ p["W_enc"] + p["b_enc"]
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    plain = lens(tmp_path / "s", "standard", {n: p[n] for n in names}, apply_b_dec_to_input=subtracts)
    assert_says_the_same(read_sae(plain).sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])
    torch.testing.assert_close(
        read_sae(plain).sae.encode(p["x"]), pre.relu() * read_sae(plain).unit, atol=2e-5, rtol=2e-5
    )
    jumps = lens(tmp_path / "j", "jumprelu", {n: p[n] for n in (*names, "threshold")}, apply_b_dec_to_input=subtracts)
    assert_says_the_same(read_sae(jumps).sae, p["x"], jump(pre, p["threshold"]), p["W_dec"], p["b_dec"])
    assert read_sae(jumps).hook == "layers.3"


def test_saelens_subtracts_b_dec_where_the_configuration_is_silent(parts, tmp_path):
    p = parts
    folder = lens(tmp_path, "standard", {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")})
    assert read_sae(folder).format == "saelens"
    pre = (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    assert_says_the_same(read_sae(folder).sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])


def test_saelens_from_before_version_6_is_read(parts, tmp_path):
    p = parts
    lens(tmp_path, "standard", {n: p[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")})
    (tmp_path / "cfg.json").write_text(json.dumps({"hook_name": "blocks.8.hook_resid_pre", "d_in": D, "d_sae": M}))
    found = read_sae(tmp_path)
    assert found.hook == "layers.7"
    pre = (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    assert_says_the_same(found.sae, p["x"], pre.relu(), p["W_dec"], p["b_dec"])


def test_saelens_gated_becomes_a_threshold(parts, tmp_path):
    p, r, gate, magnitude = parts, torch.randn(M) * 0.2, torch.randn(M) * 0.3, torch.randn(M) * 0.3
    tensors = {"W_enc": p["W_enc"], "W_dec": p["W_dec"], "b_dec": p["b_dec"]}
    folder = lens(tmp_path, "gated", {**tensors, "b_gate": gate, "b_mag": magnitude, "r_mag": r})
    x = p["x"] - p["b_dec"]
    a = (x @ p["W_enc"] + gate > 0) * (x @ (p["W_enc"] * r.exp()) + magnitude).relu()
    assert (a > 0).any()
    assert_says_the_same(read_sae(folder).sae, p["x"], a, p["W_dec"], p["b_dec"])


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
    assert_says_the_same(read_sae(folder).sae, p["x"], a, p["W_dec"] / s, p["b_dec"] / s)
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
