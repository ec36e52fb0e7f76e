"""Qwen-Scope: one file for each layer, beside one configuration."""

import torch

from steering.formats import read_sae
from tests.steering.formats.publisher_files import says_the_same


def qwen(folder, parts, layer=7):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": parts["W_enc"].T, "b_enc": parts["b_enc"], "W_dec": parts["W_dec"].T, "b_dec": parts["b_dec"]}
    torch.save(tensors, folder / f"layer{layer}.sae.pt")
    return folder


def test_qwen_scope_is_read(parts, tmp_path):
    p = parts
    found = read_sae(qwen(tmp_path / "SAE-Res-Qwen3-1.7B-W32K-L0_5", p))
    assert (found.format, found.hook, found.k) == ("qwen-scope", "layers.7", 5)
    says_the_same(found.sae, p["x"], (p["x"] @ p["W_enc"] + p["b_enc"]).relu(), p["W_dec"], p["b_dec"])
