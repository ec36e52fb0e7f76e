"""Passage analysis: equal to encoding the whole passage at once, and attributed to the right speakers."""

from pathlib import Path

import pytest
import torch

from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import BundleInfo, Feature
from steering.errors import SteeringError
from steering.interpret.analysis import analyse, compare
from steering.model.passage import NOBODY, chat_passage, text_passage
from steering.sae import SAE
from tests.support import small_bundle

TOKENIZER = small_bundle.tokenizer()


@pytest.fixture
def bundle():
    info = BundleInfo(name="small", model="m", hook="layers.1", revision="r1", typical_norm=8)
    features = [
        Feature(id=f"small/{i}", index=i, typical_max=3.0, density=0.01 * (i + 1)) for i in range(small_bundle.FEATURES)
    ]
    return Bundle(Path(), info, small_bundle.sae(), features)


def passage(text="the bridge is red and long, what should I do this weekend"):
    return text_passage(TOKENIZER, text)


def stream(passage, seed=0):
    return 2 * torch.randn(len(passage.ids), small_bundle.WIDTH, generator=torch.Generator().manual_seed(seed))


def test_figures_are_those_of_all_activations_at_once(bundle):
    p = passage()
    x = stream(p)
    found = analyse(bundle, p, x, features=48)
    a = bundle.sae.encode(x)
    a[torch.tensor(p.part) == NOBODY] = 0
    n = sum(part != NOBODY for part in p.part)
    for e in found.features:
        torch.testing.assert_close(e.activations, a[:, e.row])
        assert e.maximum == pytest.approx(float(a[:, e.row].max()), abs=1e-5)
        assert e.mean == pytest.approx(float(a[:, e.row].sum()) / n, abs=1e-5)
        assert e.count == int((a[:, e.row] > 0).sum())
    strongest = found.top[3]
    assert [r for r, _ in strongest] == a[3].topk(len(strongest)).indices.tolist()


def test_stretches_of_rows_change_nothing(bundle, monkeypatch):
    p = passage("the bridge is red " * 12)
    x = stream(p)
    whole = analyse(bundle, p, x)
    monkeypatch.setattr("steering.interpret.analysis.ROWS", 7)
    parts = analyse(bundle, p, x)
    assert parts.top == whole.top
    assert [e.row for e in parts.features] == [e.row for e in whole.features]
    torch.testing.assert_close(parts.error, whole.error, equal_nan=True)


def test_what_is_rare_and_strong_for_itself_comes_first(bundle):
    p = passage()
    x = torch.zeros(len(p.ids), small_bundle.WIDTH)
    x[1:] = 2.0 * bundle.sae.W_dec[40] + 2.0 * bundle.sae.W_dec[0]
    found = [e.row for e in analyse(bundle, p, x).features[:2]]
    assert set(found) == {0, 40}
    assert found[0] == 0  # equally strong, but it fires less often in general


def test_each_speaker_has_their_own_figures_and_the_template_none(bundle):
    p = chat_passage(TOKENIZER, [{"role": "user", "content": "the bridge"}, {"role": "assistant", "content": "is red"}])
    x = torch.zeros(len(p.ids), small_bundle.WIDTH)
    owner = torch.tensor(p.part)
    x[owner == 0], x[owner == 1], x[owner == NOBODY] = (
        k * bundle.sae.W_dec[i] for k, i in ((4.0, 7), (4.0, 9), (9.0, 11))
    )
    found = analyse(bundle, p, x)
    assert found.speakers["user"][7] > 3 > 1 > found.speakers["assistant"][7]
    assert found.speakers["assistant"][9] > 3
    assert (
        max(e.maximum for e in found.features if e.row == 11) < 4 if any(e.row == 11 for e in found.features) else True
    )
    assert torch.isnan(found.error[owner == NOBODY]).all()


def test_along_the_text_a_feature_that_comes_late_comes_late(bundle):
    p = passage("the bridge is red and long " * 6)
    x = torch.zeros(len(p.ids), small_bundle.WIDTH)
    x[len(p.ids) // 2 :] = 5 * bundle.sae.W_dec[3]
    found = analyse(bundle, p, x, only=[3])
    (along,) = found.along
    assert len(along) == 10
    assert max(along[:4]) < 0.5
    assert min(along[-4:]) > 3


def test_a_threshold_leaves_out_what_is_weak(bundle):
    p = passage()
    x = stream(p)
    weak = analyse(bundle, p, x, threshold=2.5)
    assert all(v > 2.5 for token in weak.top for _, v in token)


def test_two_texts_differ_by_what_only_one_has(bundle):
    p, q = passage("the bridge is red " * 8), passage("hello there " * 8)
    x, y = stream(p, 1) * 0.02, stream(q, 2) * 0.02
    x[1:] += 5 * bundle.sae.W_dec[13]
    planted = next(d for d in compare(bundle, (p, x), (q, y), features=3) if d.row == 13)
    assert planted.here > 0.9 > 0.5 > planted.there
    assert planted.log_odds > 0
    same = compare(bundle, (p, x), (p, x))
    assert all(d.log_odds == pytest.approx(0, abs=1e-6) for d in same)


def test_directions_that_cannot_be_read_are_refused(bundle):
    from dataclasses import replace

    p = passage()
    only = replace(bundle, sae=SAE.directions(bundle.sae.W_dec))
    with pytest.raises(SteeringError, match="directions only"):
        analyse(only, p, stream(p))
