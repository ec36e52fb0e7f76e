"""An SAE on disk is the SAE in memory, or an error that says what is wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from steering.errors import BadBundle
from steering.sae import SAE, WEIGHTS


def test_saved_and_loaded_weights_are_equal(sae, tmp_path):
    sae.save(tmp_path, hook="layers.1", model="tiny")
    again = SAE.load(tmp_path)
    x = torch.randn(7, 32)
    assert torch.equal(again.encode(x), sae.encode(x))
    assert torch.equal(again.decode(sae.encode(x)), sae.decode(sae.encode(x)))


def test_activation_below_threshold_is_zero(sae):
    a = sae.encode(torch.randn(50, 32))
    assert ((a == 0) | (a > 0.05)).all()
    assert (a > 0).any()


def test_no_half_written_file_is_left(sae, tmp_path):
    sae.save(tmp_path, hook="layers.1", model="tiny")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]


def damage(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("b_enc"), "lacks b_enc"),
        (lambda t: t.update(W_enc=torch.zeros(3, 3)), r"W_enc.*must be \[32, 64\]"),
        (lambda t: t["W_enc"].fill_(float("nan")), "NaN"),
        (lambda t: t["W_dec"].mul_(2), "length 1"),
    ],
)
def test_damaged_weights_are_refused_with_what_was_expected(sae, tmp_path, change, message):
    sae.save(tmp_path, hook="layers.1", model="tiny")
    damage(tmp_path, change)
    with pytest.raises(BadBundle, match=message):
        SAE.load(tmp_path)


def test_truncated_file_is_refused(sae, tmp_path):
    sae.save(tmp_path, hook="layers.1", model="tiny")
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadBundle, match="cannot read"):
        SAE.load(tmp_path)


@pytest.mark.parametrize("change", [{"architecture": "topk"}, {"apply_b_dec_to_input": True}])
def test_foreign_convention_is_refused(sae, tmp_path, change):
    sae.save(tmp_path, hook="layers.1", model="tiny")
    config = json.loads((tmp_path / "cfg.json").read_text()) | change
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(BadBundle):
        SAE.load(tmp_path)
