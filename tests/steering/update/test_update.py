"""SAE updates: gates, growth with fixed and anchored rows, and drift detection."""

import itertools
from dataclasses import replace

import pytest
import torch

from steering.errors import SteeringError
from steering.evaluate.sae_metrics import measure_sae
from steering.sae import SAE
from steering.train.objectives import BatchTopK
from steering.train.trainer import Trainer, TrainingRecipe, train
from steering.train.weights import Weights
from steering.update import gates
from steering.update.drift import DriftCheck, alarms, measure_drift, shifted_share
from steering.update.gates import Gate, find_suspects, without_rows
from steering.update.growth import Anchored, anchor_strengths, grow_sae
from steering.update.update import LIVE
from tests.support import small_bundle

D, OLD, NEW = 32, 24, 4


def planted(seed, *, new):
    """Sparse sums of old directions; with `new`, of four more."""
    directions = torch.nn.functional.normalize(
        torch.randn(OLD + NEW, D, generator=torch.Generator().manual_seed(0)), dim=1
    )
    g = torch.Generator().manual_seed(seed)
    while True:
        on = torch.rand(512, OLD + NEW, generator=g) < 0.08
        on[:, OLD:] &= new
        yield (on * (0.5 + torch.rand(512, OLD + NEW, generator=g))) @ directions + 0.3


def new_directions():
    return torch.nn.functional.normalize(torch.randn(OLD + NEW, D, generator=torch.Generator().manual_seed(0)), dim=1)[
        OLD:
    ]


@pytest.fixture(scope="module")
def published():
    recipe = TrainingRecipe(BatchTopK(k=3, anneal=50, dead_after=5_000), d_sae=OLD, steps=500, lr=3e-3, warmup=50)
    *_, last = train(planted(1, new=False), recipe, held_out=next(planted(9, new=False)))
    return last.sae


def learn(sae, *, held=(), append=8, anchor=0.05, steps=400):
    old, new = planted(2, new=False), planted(3, new=True)
    mask = torch.zeros(OLD, dtype=torch.bool)
    mask[list(held)] = True
    x = torch.cat(list(itertools.islice(planted(4, new=True), 8)))
    scale = (D / float(x.pow(2).sum(1).mean())) ** 0.5
    fired = sum((sae.encode(next(old)) > 0).sum(0).float() for _ in range(4))
    weights = grow_sae(
        sae, scale, x, recycled=torch.tensor([], dtype=torch.long), append=append, held=mask,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    objective = Anchored(
        k=3,
        anneal=1,
        dead_after=5_000,
        published=sae.W_dec,
        pull=anchor_strengths(fired, mask, frequent=0.7),
        anchor=anchor,
    )
    run = Trainer(TrainingRecipe(objective, OLD + append, steps, 3e-3, 50), weights, scale)
    for one, other in itertools.islice(zip(old, new, strict=True), steps):
        run.step(torch.cat([one, other]))
    return run.weights.to_sae(scale).calibrated(next(planted(9, new=False)), 3)


def test_new_things_get_rows_and_held_rows_do_not_move(published):
    after = learn(published, held=[0, 5, 7])
    cosine = (after.W_dec[:OLD] * published.W_dec).sum(1)
    assert cosine[[0, 5, 7]].min() > 1 - 1e-5
    assert ((new_directions() @ after.W_dec.T).amax(1) > 0.85).sum() >= 3
    assert (new_directions() @ published.W_dec.T).amax(1).max() < 0.8
    was, now = (measure_sae(s, itertools.islice(planted(7, new=False), 4)) for s in (published, after))
    assert now.explained_variance > was.explained_variance - 0.01


def test_a_run_goes_on_with_the_moments_of_the_last_and_held_rows_do_not_coast(published):
    weights = lambda append: grow_sae(  # noqa: E731
        published, 1.0, next(planted(4, new=True)), recycled=torch.tensor([1]), append=append,
        held=torch.arange(OLD) == 0, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    first = Trainer(TrainingRecipe(BatchTopK(k=3), OLD + 2, 20, 1e-3, 5), weights(2), 1.0)
    for batch in itertools.islice(planted(2, new=False), 20):
        first.step(batch)
    kept = first.moments()
    kept["W_dec.exp_avg"][0] = 1.0  # it was free before
    new = torch.arange(OLD + 4) == 1
    second = Trainer(TrainingRecipe(BatchTopK(k=3), OLD + 4, 20, 1e-3, 5), weights(4), 1.0)
    second.restore_moments(kept, new=new)
    warm = second.moments()
    assert warm["encoder.exp_avg_sq"][5].equal(kept["encoder.exp_avg_sq"][5])
    assert warm["encoder.exp_avg"][5].equal(kept["encoder.exp_avg"][5])
    for row in (1, OLD + 2, OLD + 3):
        assert warm["encoder.exp_avg"][row].abs().max() == 0
        torch.testing.assert_close(warm["encoder.exp_avg_sq"][row], kept["encoder.exp_avg_sq"].mean(0))
    second.step(next(planted(3, new=True)))
    torch.testing.assert_close(second.weights.W_dec[0], published.W_dec[0], rtol=0, atol=1e-6)


def test_moments_of_other_weights_are_refused(published):
    run = Trainer(TrainingRecipe(BatchTopK(k=3), OLD, 20, 1e-3, 5), Weights.from_sae(published, 1.0), 1.0)
    run.step(next(planted(2, new=False)))
    kept = run.moments()
    kept["encoder.exp_avg"] = kept["encoder.exp_avg"][:, :-1]
    with pytest.raises(ValueError, match="moments of encoder are"):
        run.restore_moments(kept, new=torch.zeros(OLD, dtype=torch.bool))


def test_springs_hold_what_fires_often(published):
    free, held = learn(published, anchor=0.0), learn(published, anchor=1.0)
    moved = lambda s: 1 - (s.W_dec[:OLD] * published.W_dec).sum(1)  # noqa: E731
    assert moved(held).mean() < moved(free).mean()


def test_new_rows_point_apart_and_where_the_error_is(published):
    x = torch.cat(list(itertools.islice(planted(4, new=True), 8)))
    weights = grow_sae(
        published, 1.0, x, recycled=torch.tensor([3]), append=5, held=torch.zeros(OLD, dtype=torch.bool),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    rows = weights.W_dec[[3, *range(OLD, OLD + 5)]].detach()
    cosines = rows @ rows.T - torch.eye(6)
    assert cosines.max() < 0.75
    assert (rows @ new_directions().T).amax(1).mean() > 0.5
    assert weights.W_dec[4].equal(published.W_dec[4])


def test_a_feature_needs_many_people_or_the_corpus():
    counts = torch.zeros(30, 4)
    counts[0, 0] = 900  # one person
    counts[:10, 1] = 90  # ten who agree
    counts[:, 2] = 30  # everybody
    counts[0, 3] = 900  # one person, but the corpus, too
    others = torch.tensor([0.0, 5.0, 0.0, 2000.0])
    found = find_suspects(counts, others, least=20)
    assert set(found) == {0, 1}
    assert found[0].users == 1
    assert "100% of where it fires is on texts of one user; 20 have to be behind it" in found[0].says
    assert find_suspects(torch.zeros(0, 4), others, least=20) == {}


def test_the_corpus_does_not_hide_what_few_people_have_taken_over():
    counts = torch.ones(20, 2)
    counts[0, 0] = 60  # three quarters of what people wrote, and a quarter of all
    others = torch.full((2,), 160.0)
    assert find_suspects(counts, others, least=2) == {}
    assert set(find_suspects(counts, 0 * others, least=2, most=LIVE)) == {0}


def test_what_is_taken_out_is_gone_or_as_it_was(published):
    more = learn(published, append=4, steps=20)
    less = without_rows(more, published, [2, OLD + 1, OLD + 3])
    assert less.d_sae == OLD + 2
    assert less.W_dec[2].equal(published.W_dec[2])
    assert less.W_dec[OLD + 1].equal(more.W_dec[OLD + 2])


def identity(parent, new, pinned=()):
    fired = torch.ones(parent.d_sae)
    found = gates.identity_gates(parent, new, fired, {i: parent.W_dec[i] for i in pinned}, torch.arange(parent.d_sae))
    return {g.name: g for g in found}


def test_identity_gates_see_what_moved(published):
    assert all(g.passed for g in identity(published, published, range(5)).values())
    turned = published.W_dec.clone()
    turned[3] = torch.nn.functional.normalize(
        turned[3] + 0.5 * torch.randn(D, generator=torch.Generator().manual_seed(1)), dim=0
    )
    seen = identity(published, replace(published, W_dec=turned), [3])
    assert not seen["pinned_birth"].passed
    assert not seen["pinned_parent"].passed
    assert "1 features of presets" in seen["pinned_birth"].says
    order = torch.randperm(OLD, generator=torch.Generator().manual_seed(2))
    seen = identity(published, replace(published, W_dec=published.W_dec[order]))
    assert not seen["identity"].passed
    assert not seen["swapped"].passed


def test_a_figure_that_is_no_number_passes_no_gate():
    for at_most in (True, False):
        assert not Gate("g", float("nan"), 1.0, at_most, "").passed


def test_the_export_gate_sees_another_sae(published):
    rows = next(planted(5, new=False))
    assert gates.export_gate(published, published, rows).passed
    assert not gates.export_gate(published, replace(published, b_dec=published.b_dec + 0.1), rows).passed


def test_drift_is_seen_and_sameness_is_not():
    model = small_bundle.model(vocab=300)
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(48, small_bundle.WIDTH, generator=generator), dim=1)
    sae = SAE(rows.T.contiguous(), torch.zeros(48), rows, torch.zeros(small_bundle.WIDTH), torch.full((48,), 0.5))
    draw = lambda low, high: [torch.randint(low, high, (40,), generator=generator).tolist() for _ in range(120)]  # noqa: E731
    then, same, other = (
        measure_drift(model, sae, "layers.1", texts) for texts in (draw(5, 300), draw(5, 300), draw(5, 9))
    )
    assert alarms(then, same) == []
    assert shifted_share(then, same) < 0.05
    assert alarms(then, other)
    with pytest.raises(SteeringError, match="39 tokens are too few"):
        measure_drift(model, sae, "layers.1", draw(5, 300)[:1])


def test_each_alarm_says_what_moved():
    firing = torch.full((40,), 0.1)
    then = DriftCheck(0.8, 30.0, 10_000, firing)
    assert alarms(then, replace(then, explained_variance=0.75)) == ["explained variance 0.800 → 0.750"]
    assert alarms(then, replace(then, l0=45.0)) == ["L0 30.0 → 45.0"]
    moved = firing.clone()
    moved[:10] = 0.4
    assert alarms(then, replace(then, firing=moved)) == ["25% of the features fire at another rate"]
