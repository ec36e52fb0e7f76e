"""Round trips with real SAE libraries: their files are imported, and exports are loaded by SAELens. `make test-peers`."""

import json
from pathlib import Path

import pytest
import sae_lens
import torch
from dictionary_learning import dictionary, utils
from dictionary_learning.trainers import batch_top_k, gdm, jumprelu, matryoshka_batch_top_k, standard, top_k
from dictionary_learning.training import trainSAE
from sae_lens.training.activation_scaler import ActivationScaler
from sparsify import SparseCoder, SparseCoderConfig
from typer.testing import CliRunner

from server.cli.sae import app
from steering.catalogue.bundle import Bundle
from steering.formats import read_sae

D, M, K = 16, 48, 5


@pytest.fixture
def x():
    return 3 * torch.randn(400, D, generator=torch.Generator().manual_seed(1)) + 0.5


@torch.no_grad()
def shaken(module):
    """The same object with random weights and biases: what a fresh one leaves at zero would hide mistakes."""
    torch.manual_seed(2)
    for name, p in module.named_parameters():
        p.copy_(torch.rand_like(p) if "threshold" in name else torch.randn_like(p) * (0.3 if p.ndim == 1 else 0.5))
    return module


@torch.no_grad()
def same(found, x, a, x_hat):
    """Activations in the library's units, and the reconstruction."""
    ours = found.sae.encode(x)
    torch.testing.assert_close(ours / found.unit, a, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.sae.decode(ours), x_hat, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def same_by_rank(found, x, x_hat):
    """A TopK: no threshold says what is kept, but the k largest of what is read are the ones that it keeps."""
    assert found.k == K
    ours = found.sae.encode(x)
    chosen = (ours / found.unit).topk(K, dim=1).indices
    kept = torch.zeros_like(ours).scatter(1, chosen, ours.gather(1, chosen))
    torch.testing.assert_close(found.sae.decode(kept), x_hat, atol=1e-4, rtol=1e-4)


# Ours, read by SAELens


def test_an_export_is_read_by_sae_lens(tmp_path):
    done = CliRunner().invoke(app, ["export", str(tmp_path / "lens")])
    assert done.exit_code == 0, done.output
    ours, theirs = Bundle.open(Path("sae_weights/harbor")).sae, sae_lens.SAE.load_from_disk(tmp_path / "lens")
    x = 10 * torch.randn(512, ours.d_in, generator=torch.Generator().manual_seed(1)) + ours.b_dec
    a = theirs.encode(x)
    assert (a > 0).any()
    torch.testing.assert_close(a, ours.encode(x), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(theirs(x), ours.decode(ours.encode(x)), atol=1e-3, rtol=1e-4)
    assert theirs.cfg.metadata.hook_name == "blocks.3.hook_resid_post"


# SAELens


def lens(kind, *, training=False, **config):
    config = {"architecture": kind, "d_in": D, "d_sae": M, "dtype": "float32", "device": "cpu", **config}
    config["metadata"] = {"hook_name": "blocks.3.hook_resid_post", "sae_lens_version": sae_lens.__version__}
    return shaken((sae_lens.TrainingSAE if training else sae_lens.SAE).from_dict(config))


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu"])
def test_sae_lens_reconstructs_the_same(kind, subtracts, x, tmp_path):
    theirs = lens(kind, apply_b_dec_to_input=subtracts)
    theirs.save_model(tmp_path)
    found = read_sae(tmp_path)
    assert (found.format, found.hook) == ("saelens", "layers.3")
    same(found, x, theirs.encode(x), theirs(x))


@pytest.mark.parametrize("rescale", [True, False])
def test_sae_lens_topk_keeps_the_same(rescale, x, tmp_path):
    theirs = lens("topk", k=K, rescale_acts_by_decoder_norm=rescale)
    theirs.save_model(tmp_path)
    found = read_sae(tmp_path)
    assert (found.format, found.hook) == ("saelens", "layers.3")
    same_by_rank(found, x, theirs(x))


TRAINED = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": K},
    "batchtopk": {"k": K},
    "matryoshka_batchtopk": {"k": K, "matryoshka_widths": [8, 16, M]},
}


@pytest.mark.parametrize("scale", [None, 1.7])
@pytest.mark.parametrize("kind", TRAINED)
def test_a_trained_sae_lens_is_read_from_its_export_and_from_its_checkpoint(kind, scale, x, tmp_path):
    normal = {"normalize_activations": "expected_average_only_in"} if scale else {}
    trained = lens(kind, training=True, **TRAINED[kind], **normal)
    if kind.endswith("batchtopk"):
        trained.topk_threshold.fill_(1.1)
    trained.save_model(tmp_path / "checkpoint")
    if scale:
        ActivationScaler(scale).save(str(tmp_path / "checkpoint" / "activation_scaler.json"))
        trained.fold_activation_norm_scaling_factor(scale)
    trained.save_inference_model(tmp_path / "export")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "export")
    for place in ("export", "checkpoint"):
        found = read_sae(tmp_path / place)
        if kind == "topk":
            same_by_rank(found, x, theirs(x))
        else:
            assert (found.sae.encode(x) > 0).equal(theirs.encode(x) > 0), place
            torch.testing.assert_close(found.sae.decode(found.sae.encode(x)), theirs(x), atol=1e-4, rtol=1e-4)


# dictionary_learning


TRAINERS = {
    "AutoEncoder": (standard.StandardTrainer, {}),
    "AutoEncoder, April": (standard.StandardTrainerAprilUpdate, {}),
    "GatedAutoEncoder": (gdm.GatedSAETrainer, {}),
    "JumpReluAutoEncoder": (jumprelu.JumpReluTrainer, {}),
    "AutoEncoderTopK": (top_k.TopKTrainer, {"k": K}),
    "BatchTopKSAE": (batch_top_k.BatchTopKTrainer, {"k": K, "threshold_start_step": 0}),
    "MatryoshkaBatchTopKSAE": (
        matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer,
        {"k": K, "threshold_start_step": 0, "group_fractions": [0.25, 0.75]},
    ),
}


@pytest.mark.parametrize("normal", [False, True])
@pytest.mark.parametrize("name", TRAINERS)
def test_what_dictionary_learning_trains_and_saves_reconstructs_the_same(name, normal, x, tmp_path):
    trainer, more = TRAINERS[name]
    config = {"trainer": trainer, "steps": 20, "activation_dim": D, "dict_size": M, "layer": 3, "lm_name": "given"}
    config |= {"warmup_steps": 2, "lr": 0.02, "device": "cpu", "seed": 1, **more}
    if trainer not in (top_k.TopKTrainer, batch_top_k.BatchTopKTrainer, TRAINERS["MatryoshkaBatchTopKSAE"][0]):
        config["sparsity_warmup_steps"] = 2
    data = [x[torch.randperm(len(x))[:64]].clone() for _ in range(22)]
    trainSAE(data, [config], 20, save_dir=str(tmp_path), normalize_activations=normal, device="cpu")
    theirs, saved = utils.load_dictionary(str(tmp_path / "trainer_0"), "cpu")
    found = read_sae(tmp_path / "trainer_0")
    assert (found.format, found.hook) == ("dictionary-learning", "layers.3")
    assert saved["trainer"]["dict_class"] == name.partition(",")[0]
    if name == "AutoEncoderTopK":
        same_by_rank(found, x, theirs(x))
    else:
        ours = found.sae.encode(x)
        assert (ours > 0).equal(theirs.encode(x) > 0)
        assert ours.any()
        torch.testing.assert_close(found.sae.decode(ours), theirs(x), atol=1e-4, rtol=1e-4)


def test_the_class_that_no_trainer_of_dictionary_learning_makes_reconstructs_the_same(x, tmp_path):
    theirs = shaken(dictionary.AutoEncoderNew(D, M))
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")  # as `trainSAE` saves
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderNew", "layer": 3}}))
    found = read_sae(tmp_path)
    assert found.format.startswith("dictionary")
    same(found, x, theirs.encode(x), theirs(x))


# sparsify


def test_sparsify_keeps_the_same(x, tmp_path):
    theirs = shaken(SparseCoder(D, SparseCoderConfig(num_latents=M, k=K)))
    theirs.set_decoder_norm_to_unit_norm()
    theirs.save_to_disk(tmp_path / "layers.3")
    found = read_sae(tmp_path / "layers.3")
    assert (found.format, found.hook) == ("sparsify", "layers.3")
    torch.testing.assert_close(found.sae.W_dec, theirs.W_dec.detach())
    same_by_rank(found, x, theirs(x).sae_out.detach())
    best = theirs.encode(x)
    torch.testing.assert_close(found.sae.encode(x).gather(1, best.top_indices), best.top_acts, atol=1e-4, rtol=1e-4)


def test_a_calibrated_sparsify_keeps_as_many_and_mostly_the_same(x, tmp_path):
    theirs = shaken(SparseCoder(D, SparseCoderConfig(num_latents=M, k=K)))
    theirs.set_decoder_norm_to_unit_norm()
    theirs.save_to_disk(tmp_path / "layers.3")
    sae = read_sae(tmp_path / "layers.3").sae.calibrated(x, K)
    kept = torch.zeros(len(x), M).scatter_(1, theirs.encode(x).top_indices, 1) > 0
    assert (sae.encode(x) > 0).sum() == K * len(x)
    assert ((sae.encode(x) > 0) & kept).sum() > 0.7 * kept.sum()
