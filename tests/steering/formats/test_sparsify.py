"""sparsify: TopK, in folders named after hook points."""

import json

import pytest
from safetensors.torch import save_file

from steering.errors import BadBundle
from steering.formats import read_sae
from tests.steering.formats.publisher_files import D, M, says_the_same


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
