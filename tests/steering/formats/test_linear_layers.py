"""Two linear layers without a layout of their own: Goodfire, DeepSeek-R1's and others."""

import torch

from steering.formats import read_sae
from tests.steering.formats.publisher_files import says_the_same


def goodfire(parts):
    tensors = {"encoder_linear.weight": parts["W_enc"].T, "encoder_linear.bias": parts["b_enc"]}
    return tensors | {"decoder_linear.weight": parts["W_dec"].T, "decoder_linear.bias": parts["b_dec"]}


def test_goodfire_is_read(parts, tmp_path):
    p = parts
    torch.save(goodfire(p), tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth")
    found = read_sae(tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth")
    assert (found.format, found.hook) == ("goodfire", "layers.19")
    says_the_same(found.sae, p["x"], (p["x"] @ p["W_enc"] + p["b_enc"]).relu(), p["W_dec"], p["b_dec"])
