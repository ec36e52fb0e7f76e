"""Model diff: no discovery between equal checkpoints; one trained on a topic shows the topic's features."""

import numpy as np
import pytest
import torch

from steering.errors import SteeringError
from steering.interpret.model_diff import FiringRates, check_fits, diff_models, firing_rates
from steering.model.hooks import read_stream
from steering.sae import SAE
from tests.support import small_bundle

TOKENIZER = small_bundle.tokenizer()
HOOK = "layers.2"
TOPIC = [TOKENIZER(w, add_special_tokens=False)["input_ids"][0] for w in ("bridge", " red", " long")]
FEATURES = 40


def documents(n, seed):
    g = torch.Generator().manual_seed(seed)
    return [[0, *torch.randint(5, len(TOKENIZER), (24,), generator=g).tolist()] for _ in range(n)]


@pytest.fixture(scope="module")
def base():
    return small_bundle.model(len(TOKENIZER))


@pytest.fixture(scope="module")
def sae(base):
    """The first features point where the model is about to say a word of the topic, the others anywhere; each fires on a tenth."""
    head = base.lm_head.weight.detach() * base.model.norm.weight.detach()
    there = head[TOPIC] - head.mean(0)
    anywhere = torch.randn(FEATURES - len(TOPIC), small_bundle.WIDTH, generator=torch.Generator().manual_seed(5))
    rows = torch.nn.functional.normalize(torch.cat([there, anywhere]), dim=1)
    x = torch.cat([read_stream(base, torch.tensor([d]), HOOK)[0, 1:] for d in documents(8, seed=9)])
    bias = -(x @ rows.T).quantile(0.9, dim=0)
    return SAE(rows.T.contiguous(), bias, rows, torch.zeros(small_bundle.WIDTH), torch.zeros(FEATURES))


@pytest.fixture(scope="module")
def tuned():
    """A few steps on text that is all about the topic."""
    model = small_bundle.model(len(TOKENIZER))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    g = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(30):
        ids = torch.tensor(TOPIC)[torch.randint(0, len(TOPIC), (8, 16), generator=g)]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_a_checkpoint_held_against_itself_has_not_changed(base, sae):
    read = firing_rates(base, sae, HOOK, documents(12, seed=2))
    found = diff_models(read, firing_rates(base, sae, HOOK, documents(12, seed=2)))
    assert found.discoveries == ()
    assert found.explained[0] == found.explained[1]


def test_what_a_checkpoint_learnt_rises(base, tuned, sae):
    text = documents(40, seed=3)
    found = diff_models(*(firing_rates(m, sae, HOOK, text) for m in (base, tuned)))
    topic = [f for f in found.discoveries if f.row < len(TOPIC)]
    assert len(topic) == len(TOPIC)
    assert all(f.b > f.a and f.up > f.down for f in topic)
    others = [f.b - f.a for f in found.features if f.row >= len(TOPIC)]
    assert np.mean([f.b - f.a for f in topic]) > np.mean(others) + 2 * np.std(others)
    assert found.documents == 40


def test_noise_that_goes_both_ways_is_hardly_ever_a_discovery():
    g = np.random.default_rng(0)
    wrong = 0
    for _ in range(20):
        one, other = (g.random((20, 60)).astype(np.float32) for _ in range(2))
        none = np.zeros(60)
        wrong += bool(diff_models(FiringRates(one, none, 1.0, 20), FiringRates(other, none, 1.0, 20)).discoveries)
    assert wrong <= 2


def test_the_share_is_that_of_a_documents_tokens_without_its_first(base, sae):
    (document,) = documents(1, seed=4)
    read = firing_rates(base, sae, HOOK, [document])
    a = sae.encode(read_stream(base, torch.tensor([document]), HOOK)[0, 1:])
    assert np.allclose(read.share[0], (a > 0).float().mean(0))
    assert read.tokens == len(document) - 1


def test_an_sae_of_another_model_is_refused(base, sae):
    check_fits(base, sae, HOOK, "base")
    with pytest.raises(SteeringError, match=r"other: .* 64 wide, the SAE reads 8"):
        check_fits(
            base, SAE(torch.zeros(8, 4), torch.zeros(4), torch.eye(4, 8), torch.zeros(8), torch.zeros(4)), HOOK, "other"
        )
    with pytest.raises(SteeringError, match=r"layers 0…2"):
        check_fits(base, sae, "layers.3", "base")
    with pytest.raises(SteeringError, match="no text"):
        firing_rates(base, sae, HOOK, [])
