"""OpenAI: ReLU and TopK for GPT-2, against the publisher's own code."""

from collections import OrderedDict

import pytest
import torch

from steering.errors import BadBundle
from steering.formats import read_sae
from tests.steering.formats.publisher_files import M, assert_says_the_same, topk


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


def test_openai_relu_is_read(parts, tmp_path):
    p = parts
    pre_less = (p["x"] - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    openai = {"encoder.weight": p["W_enc"].T, "decoder.weight": p["W_dec"].T}
    openai |= {"pre_bias": p["b_dec"], "latent_bias": p["b_enc"], "stats_last_nonzero": torch.zeros(M)}
    torch.save({**openai, "activation": "ReLU"}, tmp_path / "6.pt")
    assert_says_the_same(
        read_sae(tmp_path / "6.pt", hook="layers.6").sae, p["x"], pre_less.relu(), p["W_dec"], p["b_dec"]
    )


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


def test_openai_of_another_kind_is_refused_by_name(parts, tmp_path):
    for n, (more, said) in enumerate(
        (
            ({"activation": "JumpReLU"}, "has the activation JumpReLU ; known are ReLU and TopK"),
            ({"activation_state_dict": {"k": 3, "signed": True}}, r"signed in 6.pt .activation_state_dict. is True"),
            ({"activation_state_dict": {"k": 0}}, r"k in 6.pt .activation_state_dict. must be positive"),
            ({"decoder_gate": parts["threshold"]}, r"6.pt holds decoder_gate \[10\], which this layout does not use"),
        )
    ):
        (tmp_path / str(n)).mkdir()
        torch.save(v5(parts, **more), tmp_path / str(n) / "6.pt")
        with pytest.raises(BadBundle, match=said):
            read_sae(tmp_path / str(n) / "6.pt")


def test_openai_with_a_k_as_a_tensor_or_without_one(parts, tmp_path):
    torch.save(v5(parts, activation_state_dict={"k": torch.tensor(3), "postact_fn": None}), tmp_path / "6.pt")
    assert read_sae(tmp_path / "6.pt").k == 3
    torch.save(v5(parts, activation_state_dict=None), tmp_path / "6.pt")
    assert read_sae(tmp_path / "6.pt", k=2).k == 2
    with pytest.raises(BadBundle, match="a token cannot keep 32"):  # the k of all that are published
        read_sae(tmp_path / "6.pt")
