"""Gemma Scope 1 and 2: SAEs of every place in the model."""

import numpy as np
from safetensors.torch import save_file

from steering.formats import read_sae
from tests.steering.formats.publisher_files import jump, says_the_same


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
