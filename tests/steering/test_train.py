"""The trainer finds planted features, and what is served is what was trained."""

import itertools

import pytest
import torch

from steering.activations import padded_batches, shuffled
from steering.sae import SAE
from steering.train.batch_topk import Recipe, _Weights, export, train
from steering.train.measures import measure


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
    recipe = Recipe(d_sae=48, k=3, steps=500, lr=3e-3, warmup=50, dead_after=5_000)
    *progress, last = train(planted(), recipe, held_out=held_out)
    return progress, last.sae


def test_training_explains_the_planted_variance(trained):
    measures = measure(trained[1], itertools.islice(planted(), 5, 9))
    assert measures.explained_variance > 0.8
    assert measures.dead <= 0.05


def test_threshold_gives_the_wanted_l0(trained):
    assert measure(trained[1], itertools.islice(planted(), 5, 9)).l0 == pytest.approx(3, rel=0.1)


def test_progress_comes_while_it_trains(trained):
    assert [p.step for p in trained[0][:3]] == [50, 100, 150]
    assert trained[0][-1].explained_variance > trained[0][0].explained_variance


def test_decoder_rows_have_unit_length(trained):
    torch.testing.assert_close(trained[1].W_dec.norm(dim=1), torch.ones(48))


def test_exported_reconstruction_equals_the_trainers():
    x, scale = next(planted()), 1.7
    weights = _Weights(x * scale, Recipe(d_sae=64))
    weights.b_enc.data.normal_(0, 0.1)
    sae = export(weights.W_enc, weights.b_enc, weights.W_dec, weights.b_dec, scale=scale, k=6, held_out=x)
    pre = weights.pre(x * scale)
    kept = torch.where(pre > sae.threshold * scale, pre, 0.0)
    torch.testing.assert_close(
        sae.decode(sae.encode(x)) * scale, kept @ weights.W_dec + weights.b_dec, atol=1e-4, rtol=1e-4
    )


def test_too_little_text_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="ended after 2 of 5 steps"):
        list(train(itertools.islice(planted(), 3), Recipe(d_sae=64, k=3, steps=5), held_out=next(planted())))


def test_shuffling_loses_no_row_but_the_last_partial_batch():
    parts = [torch.arange(i * 100, i * 100 + 100.0)[:, None] for i in range(7)]
    seen = torch.cat(list(shuffled(parts, rows=32, buffer=128))).flatten().sort().values
    assert len(seen) == 700 // 32 * 32
    assert len(seen.unique()) == len(seen)


def test_padding_marks_what_is_real():
    ids, real = next(padded_batches([[1, 2, 3], [4]], batch=2, longest=8, pad=0))
    assert ids.tolist() == [[4, 0, 0], [1, 2, 3]]
    assert real.tolist() == [[True, False, False], [True, True, True]]


def test_measures_count_features_by_how_often_they_fire():
    rows = torch.eye(4)
    sae = SAE(torch.eye(4), torch.zeros(4), rows, torch.zeros(4), torch.zeros(4))
    x = torch.zeros(2000, 4)
    x[:, 0] = 1 + torch.rand(2000)  # always
    x[:30, 1] = 2  # 1.5 %
    x[:1, 2] = 2  # 0.05 %
    found = measure(sae, x.split(700))
    assert found.densities == (1, 0, 1, 0, 1, 1)
    assert found.dead == 0.25
    assert found.explained_variance == pytest.approx(1)


def test_doubled_directions_show_in_the_cosine():
    rows = torch.nn.functional.normalize(torch.randn(6, 24, generator=torch.Generator().manual_seed(1)), dim=1)
    rows[3:] = rows[:3]
    sae = SAE(rows.T.contiguous(), torch.zeros(6), rows, torch.zeros(24), torch.zeros(6))
    assert measure(sae, [torch.randn(50, 24)]).cosine == pytest.approx(1, abs=1e-5)
