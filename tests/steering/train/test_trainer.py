"""SAE trainer: recovers planted features, and the exported SAE equals the trained weights."""

import itertools

import pytest
import torch

from steering.evaluate.sae_metrics import measure_sae
from steering.sae import SAE
from steering.train import kernels, objectives
from steering.train.distributed import SINGLE_PROCESS
from steering.train.kernels import DensePass, SparsePass
from steering.train.objectives import BatchTopK, JumpReLU, ReluL1, Schedule, TopK, _largest
from steering.train.trainer import TrainingRecipe, train


def planted(n_features=48, d=24, seed=0):
    """Endless sparse sums of known directions, shifted."""
    directions = torch.nn.functional.normalize(
        torch.randn(n_features, d, generator=torch.Generator().manual_seed(0)), dim=1
    )
    g = torch.Generator().manual_seed(seed + 1)
    while True:
        on = torch.rand(512, n_features, generator=g) < 0.06
        yield (on * (0.5 + torch.rand(512, n_features, generator=g))) @ directions + 0.3


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    held_out = next(planted(seed=9))
    recipe = TrainingRecipe(BatchTopK(k=3, anneal=50, dead_after=5_000), d_sae=48, steps=500, lr=3e-3, warmup=50)
    *progress, last = train(planted(), recipe, held_out=held_out)
    return progress, last.sae


def test_training_explains_the_planted_variance(trained):
    measures = measure_sae(trained[1], itertools.islice(planted(), 5, 9))
    assert measures.explained_variance > 0.8
    assert measures.dead <= 0.05


def test_threshold_gives_the_wanted_l0(trained):
    assert measure_sae(trained[1], itertools.islice(planted(), 5, 9)).l0 == pytest.approx(3, rel=0.1)


def test_progress_comes_while_it_trains(trained):
    assert [p.step for p in trained[0][:3]] == [50, 100, 150]
    assert trained[0][-1].explained_variance > trained[0][0].explained_variance


def test_decoder_rows_have_unit_length(trained):
    torch.testing.assert_close(trained[1].W_dec.norm(dim=1), torch.ones(48))


OBJECTIVES = {
    "batchtopk": BatchTopK(k=3, anneal=50, dead_after=5_000),
    "topk": TopK(k=3, anneal=50, dead_after=5_000),
    "relu": ReluL1(l1=2.0),
    "jumprelu": JumpReLU(sparsity=0.6, bandwidth=0.3, fires=24),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_served_reconstructs_as_the_trainer_does(name):
    """At the trainer's own scale and thresholds: the commonest fault of others' exports."""
    x, scale, objective = next(planted()), 1.7, OBJECTIVES[name]
    weights = objective.initial_weights(x * scale, 64, torch.Generator().manual_seed(1))
    torch.nn.init.normal_(weights.b_enc, 0, 0.1)
    torch.nn.init.normal_(weights.b_dec, 0, 0.3)
    sae = objective.to_sae(weights, scale, x)
    pre, lengths = weights.pre(x * scale), weights.lengths
    cut = sae.threshold * scale / lengths if weights.log_threshold is None else weights.log_threshold.exp()
    kept = torch.where((pre > cut) & (pre > 0), pre, 0.0)
    torch.testing.assert_close(sae.decode(sae.encode(x)) * scale, weights.decode(kept), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


@pytest.mark.parametrize("name", ["topk", "relu", "jumprelu"])
def test_every_objective_learns_the_planted_features(name):
    lr = 1e-2 if name == "jumprelu" else 3e-3  # thresholds are learnt as logarithms, in steps of lr
    recipe = TrainingRecipe(OBJECTIVES[name], d_sae=48, steps=500, lr=lr, warmup=50)
    *progress, last = train(planted(), recipe, held_out=next(planted(seed=9)))
    found = measure_sae(last.sae, itertools.islice(planted(), 5, 9))
    assert found.explained_variance > 0.7, (found, progress[-1])
    assert found.l0 < 12, (found, progress[-1])


def test_topk_keeps_k_of_each_token_and_batchtopk_k_on_average():
    pre = torch.relu(torch.randn(64, 40, generator=torch.Generator().manual_seed(2)))
    each, together = (
        pre > TopK(k=4).threshold(pre, 4, SINGLE_PROCESS),
        pre > BatchTopK(k=4).threshold(pre, 4, SINGLE_PROCESS),
    )
    assert (each.sum(1) == 4).all()
    assert together.sum() == 4 * 64
    assert pre[together].min() >= pre[each].min()


@pytest.mark.parametrize("wanted", [1, 50, 3000, 20_000, 70_000])
def test_the_cut_is_exact_wherever_it_lies(wanted):
    """The sample only says where to look, also when it misleads."""
    pre = torch.relu(torch.randn(700, 100, generator=torch.Generator().manual_seed(2)))
    pre[::7, ::9] *= 30
    assert (pre > _largest(pre, wanted, SINGLE_PROCESS)).sum() == min(wanted, int((pre > 0).sum()))


@pytest.mark.parametrize("objective", [BatchTopK(k=3, dead_after=10), TopK(k=3), BatchTopK(k=4, matryoshka=64)])
def test_sparse_gradients_are_the_dense_ones(objective, monkeypatch):
    x, found = next(planted()), {}
    idle = torch.where(torch.arange(64) % 3 == 0, 100.0, 0.0)
    for way in (SparsePass, DensePass):
        monkeypatch.setattr(objectives, "encode_batch", way)
        weights = objective.initial_weights(x, 64, torch.Generator().manual_seed(1))
        torch.nn.init.normal_(weights.b_enc, 0, 0.1, generator=torch.Generator().manual_seed(2))
        loss, error, counts = objective.loss_terms(weights, x, Schedule(500, 1000, idle))
        loss.backward()
        found[way] = [loss.detach(), error.detach(), counts, *(p.grad for p in weights.parameters())]
    for ours, reference in zip(found[SparsePass], found[DensePass], strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("objective", [BatchTopK(k=3, dead_after=10), TopK(k=3), BatchTopK(k=4, matryoshka=64)])
def test_where_the_product_is_taken_in_bfloat16_what_is_kept_is_exact(objective, monkeypatch):
    monkeypatch.setattr(kernels, "_halves", lambda weights: True)
    x = next(planted())
    weights = objective.initial_weights(x, 64, torch.Generator().manual_seed(1))
    torch.nn.init.normal_(weights.b_enc, 0, 0.1, generator=torch.Generator().manual_seed(2))
    kept = objective.active(SparsePass(weights, x), 3, SINGLE_PROCESS)
    exact = objective.active(DensePass(weights, x), 3, SINGLE_PROCESS)
    code = kept.code
    torch.testing.assert_close(kept.values, weights.pre(x)[code.row, code.column], atol=1e-5, rtol=1e-5)
    assert len(kept.values) == pytest.approx(3 * len(x), rel=0.03)  # rows of a TopK may have two equals at their end
    assert (exact.a[code.row, code.column] > 0).float().mean() > 0.97


def test_a_second_step_writes_into_the_memory_of_the_first():
    objective, x = BatchTopK(k=3), next(planted())
    weights = objective.initial_weights(x, 64, torch.Generator().manual_seed(1))
    places, gradients = set(), []
    for _ in range(2):
        objective.loss_terms(weights, x, Schedule(500, 1000, torch.zeros(64))).loss.backward()
        assert weights.W_dec.grad is not None
        places.add(weights.W_dec.grad.data_ptr())
        gradients.append(weights.W_dec.grad.clone())
        weights.zero_grad(set_to_none=True)
    assert len(places) == 1
    torch.testing.assert_close(*gradients)


def test_a_matryoshka_reconstructs_with_its_first_features_alone():
    objective, x = BatchTopK(k=6, anneal=1, matryoshka=64, dead_after=10**9), next(planted())
    weights = objective.initial_weights(x, 64, torch.Generator().manual_seed(1))
    pre = torch.relu(weights.pre(x))
    kept = torch.where(pre > _largest(pre.detach(), 6 * len(x), SINGLE_PROCESS), pre, 0.0)
    errors = [(x - kept[:, :n] @ weights.W_dec[:n] - weights.b_dec).pow(2).sum(1).mean() for n in (4, 16, 64)]
    loss, error, _ = objective.loss_terms(weights, x, Schedule(500, 1000, torch.zeros(64)))
    torch.testing.assert_close(loss, torch.stack(errors).mean() / 24)
    torch.testing.assert_close(error, errors[-1])


def test_the_penalty_of_scaling_monosemanticity_is_the_published_one():
    x, objective = next(planted()), ReluL1(l1=5.0, warmup=0.05)
    weights = objective.initial_weights(x, 32, torch.Generator().manual_seed(1))
    torch.testing.assert_close(weights.lengths, torch.full((32,), 0.1))
    for step, rise in ((0, 1 / 50), (24, 0.5), (49, 1.0), (900, 1.0)):
        loss, error, _ = objective.loss_terms(weights, x, Schedule(step, 1000, torch.zeros(32)))
        f = torch.relu(weights.pre(x))
        penalty = sum(float(row @ weights.W_dec.detach().norm(dim=1)) for row in f.detach()) / len(x)
        assert float((loss - error).detach()) == pytest.approx(5.0 * rise * penalty, rel=1e-4)


def test_thresholds_learn_only_from_what_lies_near_them():
    x = next(planted())
    objective = JumpReLU(push=0.0, bandwidth=0.01)
    weights = objective.initial_weights(x, 32, torch.Generator().manual_seed(1))
    with torch.no_grad():
        weights.b_enc.copy_(torch.full((32,), -50.0))
    objective.loss_terms(weights, x, Schedule(0, 10, torch.zeros(32))).loss.backward()
    assert weights.log_threshold is not None
    assert not weights.log_threshold.grad.any()


def test_too_little_text_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="ended after 2 of 5 steps"):
        list(
            train(
                itertools.islice(planted(), 3),
                TrainingRecipe(BatchTopK(k=3), d_sae=64, steps=5),
                held_out=next(planted()),
            )
        )


def test_measures_count_features_by_how_often_they_fire():
    rows = torch.eye(4)
    sae = SAE(torch.eye(4), torch.zeros(4), rows, torch.zeros(4), torch.zeros(4))
    x = torch.zeros(2000, 4)
    x[:, 0] = 1 + torch.rand(2000)  # always
    x[:30, 1] = 2  # 1.5 %
    x[:1, 2] = 2  # 0.05 %
    found = measure_sae(sae, x.split(700))
    assert found.densities == (1, 0, 1, 0, 1, 1)
    assert found.dead == 0.25
    assert found.explained_variance == pytest.approx(1)


def test_doubled_directions_show_in_the_cosine():
    rows = torch.nn.functional.normalize(torch.randn(6, 24, generator=torch.Generator().manual_seed(1)), dim=1)
    rows[3:] = rows[:3]
    sae = SAE(rows.T.contiguous(), torch.zeros(6), rows, torch.zeros(24), torch.zeros(6))
    assert measure_sae(sae, [torch.randn(50, 24)]).cosine == pytest.approx(1, abs=1e-5)
