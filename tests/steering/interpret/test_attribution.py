"""Attribution: agrees with ablation; planted causes come first, unrelated features are not listed."""

from dataclasses import replace

import pytest
import torch

from steering.edits import ResolvedIntervention, compile_edit
from steering.errors import SteeringError
from steering.interpret.attribution import attribute, token_of
from steering.model.hooks import read_stream, steer
from steering.sae import SAE
from tests.support import small_bundle

TOKENIZER = small_bundle.tokenizer()
IDS = [0, *TOKENIZER("the bridge is red and")["input_ids"]]
LAST = "layers.2"


@pytest.fixture(scope="module")
def model():
    return small_bundle.model(len(TOKENIZER))


@pytest.fixture
def planted(model):
    """At the last layer: feature 0 makes token 50 likelier, 1 less likely, 2 is active and does next to nothing to it."""
    x = read_stream(model, torch.tensor([IDS]), LAST)[0, 1:].float()
    head, scale = model.lm_head.weight.detach(), model.model.norm.weight.detach()
    towards = torch.nn.functional.normalize((head[50] - head.mean(0)) * scale, dim=0)
    away = torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(1)), dim=0)
    for d in (towards, x[-1] / x[-1].norm()):  # what only makes the stream longer or shorter acts through the norm
        away = torch.nn.functional.normalize(away - (away @ d) * d, dim=0)
    rows = torch.stack([towards, -towards, away])
    bias = torch.tensor([2.0, 1.5, 6.0]) - (x @ rows.T)[-1]
    sae = SAE(rows.T.contiguous(), bias, rows, torch.zeros(64), torch.zeros(3))
    assert (sae.encode(x[-1]) > 1).all()
    return sae


def test_the_cause_of_a_token_is_named_and_the_busiest_feature_is_not(model, planted):
    found = attribute(model, planted, LAST, IDS, target=50)
    by = {c.row: c for c in found.causes}
    assert found.causes[0].row == 0
    assert by[0].attribution > 0 > by[1].attribution
    assert by[0].ablation > 0 > by[1].ablation
    assert by[2].activation > by[0].activation
    assert abs(by[2].ablation) < 0.5 * by[0].ablation


def test_an_ablation_is_what_steering_with_ablate_does(model):
    sae = small_bundle.sae()
    found = attribute(model, sae, "layers.1", IDS, target=50, against=60, tried=3)
    tried = [c for c in found.causes if c.ablation is not None]
    assert 3 <= len(tried) <= 6
    where = torch.ones(1, len(IDS), dtype=torch.bool)
    where[0, 0] = False
    for cause in tried:
        edit = compile_edit([ResolvedIntervention(cause.row, "ablate", 0.0)], sae)
        with torch.no_grad(), steer(model, {"layers.1": edit}, where=where):
            logits = model(torch.tensor([IDS])).logits[0, -1]
        assert cause.ablation == pytest.approx(found.value - float(logits[50] - logits[60]), abs=1e-3)


def test_a_small_push_changes_the_value_by_what_the_gradient_says(model):
    sae = small_bundle.sae()
    weak = replace(sae, W_dec=sae.W_dec * 1e-3)  # so that what is taken away is small
    found = attribute(model, weak, "layers.1", IDS, target=50, tried=None)
    for cause in found.causes[:8]:
        assert cause.ablation == pytest.approx(cause.attribution, rel=0.1, abs=2e-5)


def test_without_a_target_the_models_own_next_token_is_explained(model):
    found = attribute(model, small_bundle.sae(), "layers.1", IDS)
    with torch.no_grad():
        logits = model(torch.tensor([IDS])).logits[0, -1]
    assert found.target == int(logits.argmax())
    assert found.value == pytest.approx(float(logits.max() - logits.mean()), abs=1e-3)
    assert found.probability == pytest.approx(float(logits.softmax(-1).max()), abs=1e-4)


def test_two_targets_change_sign_when_they_change_places(model):
    one = attribute(model, small_bundle.sae(), "layers.1", IDS, target=50, against=60)
    other = attribute(model, small_bundle.sae(), "layers.1", IDS, target=60, against=50)
    assert one.value == pytest.approx(-other.value, abs=1e-4)
    assert one.causes[0].attribution == pytest.approx(-other.causes[0].attribution, abs=1e-4)


def test_the_model_is_as_it_was_afterwards(model):
    before = model(torch.tensor([IDS])).logits
    attribute(model, small_bundle.sae(), "layers.1", IDS)
    assert torch.equal(model(torch.tensor([IDS])).logits, before)
    assert all(p.grad is None for p in model.parameters())


def test_what_cannot_be_explained_is_refused(model):
    with pytest.raises(SteeringError, match="text before"):
        attribute(model, small_bundle.sae(), "layers.1", [0])
    with pytest.raises(SteeringError, match="directions only"):
        attribute(model, SAE.directions(small_bundle.sae().W_dec), "layers.1", IDS)
    with pytest.raises(SteeringError, match="tokens"):
        token_of(TOKENIZER, "antidisestablishment")
    assert token_of(TOKENIZER, "red") == token_of(TOKENIZER, " red")
