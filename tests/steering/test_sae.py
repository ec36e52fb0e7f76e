"""SAE on disk: loads equal to the one in memory, or fails with an error that names the problem."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from steering.errors import BadBundle, SteeringError
from steering.sae import SAE, WEIGHTS, scale_of
from tests.steering.conftest import random_sae


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


@pytest.mark.parametrize(
    "change",
    [{"architecture": "topk"}, {"apply_b_dec_to_input": True}, {"normalize_activations": "covariance_whitening"}],
)
def test_foreign_convention_is_refused(sae, tmp_path, change):
    sae.save(tmp_path, hook="layers.1", model="tiny")
    config = json.loads((tmp_path / "cfg.json").read_text()) | change
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(BadBundle):
        SAE.load(tmp_path)


@pytest.mark.parametrize(("scaling", "word"), [("length", "constant_norm_rescale"), ("spread", "layer_norm")])
def test_how_tokens_are_scaled_is_kept_on_disk_in_saelens_word(tmp_path, scaling, word):
    sae, x = random_sae(scaling=scaling), torch.randn(9, 32) * 3 + 1
    sae.save(tmp_path, hook="layers.1", model="tiny")
    assert json.loads((tmp_path / "cfg.json").read_text())["normalize_activations"] == word
    again = SAE.load(tmp_path).to("cpu")
    assert again.scaling == scaling
    assert torch.equal(again.encode(x), sae.encode(x))
    assert torch.equal(again.reconstruct(x), sae.reconstruct(x))


@pytest.mark.parametrize("scaling", ["length", "spread"])
def test_a_scaled_sae_says_twice_as_much_of_a_stream_twice_as_long(scaling):
    sae, x = random_sae(scaling=scaling), torch.randn(50, 32) * 3
    on = sae.encode(x)
    assert (on > 0).any()
    torch.testing.assert_close(sae.encode(2 * x), 2 * on, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae.reconstruct(2 * x), 2 * sae.reconstruct(x), atol=1e-3, rtol=1e-3)


def test_spread_sees_no_mean_and_gives_it_back():
    sae, x = random_sae(scaling="spread"), torch.randn(50, 32)
    torch.testing.assert_close(sae.encode(x + 7), sae.encode(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae.reconstruct(x + 7), sae.reconstruct(x) + 7, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scaling", ["none", "length", "spread"])
def test_a_calibrated_threshold_keeps_k_and_the_strongest_in_units_of_each_tokens_scale(scaling):
    sae, x = random_sae(scaling=scaling), torch.randn(5000, 32) * torch.rand(5000, 1) * 9
    sharp = sae.calibrated(x, 3)
    assert int((sharp.encode(x) > 0).sum()) == 3 * len(x)
    strength = sae.calibrated(x, 1000).encode(x) / (1 if scaling == "none" else scale_of(x, scaling))
    on = sharp.encode(x) > 0
    assert strength[on].min() > strength[~on].max()


def test_a_token_of_zeros_fires_nothing_and_is_no_nan():
    for scaling in ("length", "spread"):
        sae, x = random_sae(scaling=scaling), torch.zeros(2, 32)
        assert sae.reconstruct(x).isfinite().all()
        assert sae.calibrated(torch.cat([x, torch.randn(20, 32)]), 3).threshold.isfinite().all()


def test_decoding_without_the_stream_is_refused_where_the_scale_is_the_tokens():
    sae, x = random_sae(scaling="spread"), torch.randn(3, 32)
    with pytest.raises(ValueError, match="give the stream that was read"):
        sae.decode(sae.encode(x))


def test_a_bundle_that_would_read_the_mean_is_refused(tmp_path):
    replace(random_sae(), scaling="spread").save(tmp_path, hook="layers.1", model="tiny")
    with pytest.raises(BadBundle, match="reads the mean of a token; `tiller sae import`"):
        SAE.load(tmp_path)


def test_directions_alone_are_kept_as_such_and_read_nothing(sae, tmp_path):
    SAE.directions(sae.W_dec).save(tmp_path, hook="layers.1", model="tiny")
    assert list(load_file(tmp_path / WEIGHTS)) == ["W_dec"]
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == "directions"
    again = SAE.load(tmp_path).to("cpu")
    assert torch.equal(again.W_dec, sae.W_dec)
    assert not again.reads
    for act in (again.encode, again.reconstruct, lambda x: again.calibrated(x, 3)):
        with pytest.raises(SteeringError, match=r"directions only: .*mode 'add'"):
            act(torch.randn(4, 32))


def test_training_goes_on_from_neither_a_scaled_sae_nor_directions(sae):
    sae.check_learns()
    with pytest.raises(SteeringError, match="divides each token by its own spread"):
        random_sae(scaling="spread").check_learns()
    with pytest.raises(SteeringError, match="directions only"):
        SAE.directions(sae.W_dec).check_learns()
