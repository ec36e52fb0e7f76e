"""Mood axes: a score only where features are better than a bag of words; errors of damaged files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import BundleInfo, Feature
from steering.errors import BadBundle
from steering.evaluate.classifiers import Auroc, auroc_with_interval, fit_cross_validated
from steering.interpret.analysis import analyse
from steering.interpret.mood_axes import FILE, MoodAxes, MoodAxis, sae_digest
from steering.model.passage import NOBODY, chat_passage, text_passage
from tests.support import small_bundle

TOKENIZER = small_bundle.tokenizer()
CHAT = [{"role": "user", "content": "the bridge is red"}, {"role": "assistant", "content": "hello there"}]


@pytest.fixture
def bundle():
    info = BundleInfo(name="small", model="m", hook="layers.1", revision="r1", typical_norm=8)
    features = [Feature(id=f"small/{i}", index=i, typical_max=3.0, density=0.01) for i in range(small_bundle.FEATURES)]
    return Bundle(Path(), info, small_bundle.sae(), features)


def axis(features: Auroc, words: Auroc, weights=None, bias=0.0):
    weights = weights or [0.0] * small_bundle.FEATURES
    nothing = Auroc(value=0.5, low=0.4, high=0.6)
    figures = {"auroc": features, "bag_of_words": words, "raw": nothing, "length": nothing}
    told = {"name": "red", "high": "red", "low": "not red", "source": "test", "bias": bias, "weights": tuple(weights)}
    return MoodAxis(**told, **figures, n_train=10, n_test=10, prevalence=0.5)


def axes(*found, features=range(small_bundle.FEATURES)):
    return MoodAxes(
        method="test", date="2026-01-01", sae=sae_digest(small_bundle.sae()), features=tuple(features), axes=found
    )


def planted(n=600, d=40, *, told_by=(3, 7)):
    """Features that fire at random; the label is whether more of some of them fire than usual."""
    g = torch.Generator().manual_seed(0)
    rows = (torch.rand(n, d, generator=g) < 0.3).float()
    label = (rows[:, list(told_by)].sum(1) > 0).float() if told_by else (torch.rand(n, generator=g) < 0.5).float()
    return rows, label[:, None]


def shown(rows, labels, words):
    """Learnt from half, judged on the rest, beside words that were judged on the same."""
    half = len(rows) // 2
    has = labels[half:, 0].numpy() > 0.5
    of = [
        auroc_with_interval(fit_cross_validated(x[:half], labels[:half]).odds(x[half:])[:, 0].double().numpy(), has)
        for x in (rows, words)
    ]
    return axis(*of)


def test_a_planted_axis_that_words_do_not_tell_becomes_a_score():
    rows, labels = planted()
    found = shown(rows, labels, words=planted(told_by=())[0].roll(7, 0))
    assert found.auroc.low > 0.95
    assert found.shown_as == "score"


def test_noise_becomes_evidence():
    noise, labels = planted(told_by=())
    found = shown(noise, labels, words=noise.roll(1, 0))
    assert found.auroc.low < 0.55
    assert found.shown_as == "evidence"


def test_an_axis_that_words_tell_better_becomes_evidence():
    rows, labels = planted()
    blurred = torch.where(torch.rand(rows.shape, generator=torch.Generator().manual_seed(1)) < 0.15, 1 - rows, rows)
    found = shown(blurred, labels, words=rows)
    assert found.auroc.value > 0.6
    assert found.shown_as == "evidence"


def test_a_score_is_the_mean_over_a_speakers_stretches_and_names_what_speaks_for_it(bundle):
    p = chat_passage(TOKENIZER, CHAT)
    x = torch.zeros(len(p.ids), small_bundle.WIDTH)
    owner = torch.tensor(p.part)
    x[owner == 0], x[owner == 1] = 4.0 * bundle.sae.W_dec[7], 4.0 * bundle.sae.W_dec[9]
    weights = [0.0] * small_bundle.FEATURES
    weights[7] = 3.0
    good = Auroc(value=0.9, low=0.85, high=0.95)
    (told,) = axes(axis(good, Auroc(value=0.8, low=0.7, high=0.9), weights)).to_dict(bundle, analyse(bundle, p, x))
    assert told["shown_as"] == "score"
    assert told["speakers"]["user"]["score"] == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-3)
    assert told["speakers"]["user"]["evidence"] == ["small/7"]
    other = told["speakers"]["assistant"]["score"]
    assert told["score"] == pytest.approx((told["speakers"]["user"]["score"] + other) / 2, abs=1e-3)


def test_an_axis_without_a_score_still_shows_evidence(bundle):
    p = text_passage(TOKENIZER, "the bridge")
    x = torch.zeros(len(p.ids), small_bundle.WIDTH)
    x[1:] = 4.0 * bundle.sae.W_dec[7]
    weights = [0.0] * small_bundle.FEATURES
    weights[7] = 3.0
    weak = axis(Auroc(value=0.7, low=0.6, high=0.8), Auroc(value=0.9, low=0.8, high=1.0), weights)
    (told,) = axes(weak).to_dict(bundle, analyse(bundle, p, x))
    assert told["score"] is None
    assert told["evidence"] == ["small/7"]


def test_stretches_are_of_one_speaker_and_leave_the_template_out(bundle):
    p = chat_passage(TOKENIZER, [{"role": "user", "content": "the bridge is red and long " * 12}, CHAT[1]])
    x = 2 * torch.randn(len(p.ids), small_bundle.WIDTH, generator=torch.Generator().manual_seed(0))
    found = analyse(bundle, p, x, threshold=3.0)
    a = bundle.sae.encode(x) > 0
    owner = torch.tensor(p.part)
    assert found.fired_by.count("user") > 1
    assert found.fired_by[-1] == "assistant"
    whole = found.fired[[i for i, s in enumerate(found.fired_by) if s == "user"]].any(0)
    assert whole.equal(a[owner == 0].any(0))
    assert found.fired.any(0).equal(a[owner != NOBODY].any(0))


def test_weights_belong_to_features_numbers_whatever_their_rows(bundle):
    moved = replace(
        bundle,
        features=[
            f.model_copy(update={"index": 100 - f.index, "id": f"small/{100 - f.index}"}) for f in bundle.features
        ],
    )
    weights = [0.0] * small_bundle.FEATURES
    weights[0] = 2.0
    file = axes(
        axis(Auroc(value=0.9, low=0.8, high=1), Auroc(value=0.5, low=0.4, high=0.6), weights),
        features=[93, *range(200, 199 + small_bundle.FEATURES)],
    )
    p = text_passage(TOKENIZER, "the bridge")
    x = torch.zeros(len(p.ids), small_bundle.WIDTH)
    x[1:] = 4.0 * bundle.sae.W_dec[7]
    (told,) = file.to_dict(moved, analyse(moved, p, x))
    assert told["evidence"] == ["small/93"]


def test_axes_are_the_same_after_saving_and_none_where_there_is_no_file(tmp_path):
    assert MoodAxes.open(tmp_path, small_bundle.sae()) is None
    found = axes(
        axis(Auroc(value=0.9, low=0.8, high=1), Auroc(value=0.5, low=0.4, high=0.6), [0.5] * small_bundle.FEATURES)
    )
    found.save(tmp_path)
    assert MoodAxes.open(tmp_path, small_bundle.sae()) == found


def test_axes_of_another_sae_are_none(tmp_path):
    axes().save(tmp_path)
    other = replace(small_bundle.sae(), threshold=torch.full((small_bundle.FEATURES,), 0.2))
    assert MoodAxes.open(tmp_path, other) is None


def test_a_damaged_file_is_named(tmp_path):
    good = axes(axis(Auroc(value=0.9, low=0.8, high=1), Auroc(value=0.5, low=0.4, high=0.6)))
    good.save(tmp_path)
    whole = (tmp_path / FILE).read_text()
    for damaged in (whole[:200], whole.replace('"features":[0,', '"features":['), "[]"):
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(BadBundle, match=r"axes\.json.*damaged.*recipes\.axes"):
            MoodAxes.open(tmp_path, small_bundle.sae())


def test_an_error_is_placed_among_those_of_the_corpus():
    found = axes().model_copy(update={"errors": tuple(i / 100 for i in range(101))})
    assert found.error_percentile(2.0) == 100
    assert found.error_percentile(0.0) == 0
    assert found.error_percentile(0.5) == pytest.approx(50, abs=1)
    assert axes().error_percentile(0.5) is None
