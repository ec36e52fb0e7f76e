"""Word labels: predict where planted features fire on held-out texts; other features' labels do not."""

import numpy as np
import pytest
import torch

from steering.interpret.label_scores import detection_trial, mean_of
from steering.interpret.top_activations import BEFORE, collect_top_activations
from steering.interpret.word_labels import Labeller, LabelTexts, _best_threshold, word_positions
from steering.model.activations import padded_batches
from tests.support import planted_features, small_bundle

NAMES = ("red", "weekend", "hello")


@pytest.fixture(scope="module")
def looked():
    model = planted_features.model()
    sae = planted_features.planted_sae(model)
    batches = lambda seed: padded_batches(planted_features.rows(250, seed), batch=16, longest=64, pad=0)  # noqa: E731
    learn = collect_top_activations(model, sae, planted_features.HOOK, batches(1), top=20, samples=8)
    return learn, collect_top_activations(model, sae, planted_features.HOOK, batches(2), samples=4)


@pytest.fixture(scope="module")
def labels(looked):
    learn, _ = looked
    labeller = Labeller.from_windows(LabelTexts(small_bundle.tokenizer()), learn.anywhere)
    silent = lambda i: (learn.anywhere.peaks[learn.anywhere.filled, i] == 0).numpy()  # noqa: E731
    return {
        i: labeller.label(*word_positions(learn, i), silent(i))
        for i in range(small_bundle.FEATURES)
        if learn.maximum[i] > 0
    }


@pytest.mark.parametrize(("feature", "word"), list(enumerate(NAMES)))
def test_a_planted_feature_is_called_by_its_word(labels, feature, word):
    assert labels[feature].words[0] == word
    assert labels[feature].text().startswith(f"on “{word}")
    assert labels[feature].text([" sun", "shine", " 7"]).endswith("says “sun”")


@pytest.mark.parametrize("feature", range(3))
def test_the_label_of_a_planted_feature_predicts_and_anothers_does_not(looked, labels, feature):
    on = detection_trial(looked[1], feature)
    assert on.fires.sum() >= 5
    assert (~on.fires).sum() == on.fires.sum()
    controls = []
    for other in range(3):
        if other != feature:
            fires, right = on.by_words(labels[feature])
            scores = on.scores(fires, right, on.by_words(labels[other])[0])
            controls.append(scores.control)
    assert scores.detection >= 0.9
    assert scores.fuzzing >= 0.9
    assert abs(sum(controls) / 2 - 0.5) <= 0.15
    assert scores.n == len(on.ids)


def test_labels_of_all_features_are_better_than_shuffled_ones(looked, labels):
    known, found = list(labels), []
    for n, i in enumerate(known):
        if on := detection_trial(looked[1], i):
            other = labels[known[(n + len(known) // 2) % len(known)]]
            found.append(on.scores(*on.by_words(labels[i]), on.by_words(other)[0]))
    means = mean_of(found)
    assert len(found) > 30
    assert means["detection"] > 0.7
    assert means["fuzzing"] > 0.7
    assert abs(means["control"] - 0.5) < 0.1
    assert "specificity" not in means


def test_a_label_says_the_same_each_time(looked):
    learn, _ = looked
    silent = (learn.anywhere.peaks[learn.anywhere.filled, 0] == 0).numpy()
    one, other = (
        Labeller.from_windows(LabelTexts(small_bundle.tokenizer()), learn.anywhere).label(
            *word_positions(learn, 0), silent
        )
        for _ in range(2)
    )
    assert (one.text(), one.in_text, one.in_place) == (other.text(), other.in_text, other.in_place)


def test_a_feature_that_fires_by_chance_has_a_label_that_is_worth_nothing(looked):
    learn, held = looked
    g = torch.Generator().manual_seed(3)
    filled = learn.anywhere.ids[learn.anywhere.filled]
    some = filled[torch.randperm(len(filled), generator=g)[:60]]
    some = some[some[:, BEFORE] >= 0].numpy()
    activations = np.zeros(some.shape)
    activations[:, BEFORE] = 1
    labeller = Labeller.from_windows(LabelTexts(small_bundle.tokenizer()), learn.anywhere)
    label = labeller.label(some, activations, np.ones(len(filled), dtype=bool))
    windows = held.anywhere.ids[held.anywhere.filled].numpy()
    said = label.fires(windows)
    truth = np.arange(len(said)) % 2 == 0
    assert abs((said[truth].mean() + (~said[~truth]).mean()) / 2 - 0.5) < 0.12


def test_features_that_are_silent_or_never_silent_are_not_tried(looked):
    _, held = looked
    assert detection_trial(held, small_bundle.FEATURES - 1) is None
    always = (held.anywhere.peaks[held.anywhere.filled] > 0).all(0).nonzero()[:, 0].tolist()
    assert all(detection_trial(held, i) is None for i in always)


def test_marked_tokens_are_right_where_it_fires_and_wrong_where_it_does_not(looked):
    on = detection_trial(looked[1], 0)
    red = small_bundle.tokenizer()(" red", add_special_tokens=False)["input_ids"][0]
    tokens = on.marked[np.arange(len(on.marked)), on.columns]
    assert set(tokens[on.right].tolist()) == {red}
    assert red not in tokens[~on.right].tolist()
    assert on.right.sum() == (~on.right).sum()


def test_the_cut_parts_what_can_be_parted():
    assert 1 < _best_threshold(np.array([3.0, 2.0]), np.array([1.0, 0.0])) < 2
    assert _best_threshold(np.array([1.0]), np.array([-np.inf])) < 1
    assert np.isfinite(_best_threshold(np.array([1.0, 1.0]), np.array([1.0])))


def test_words_are_the_same_however_they_are_written():
    texts = LabelTexts(small_bundle.tokenizer())
    ids = [small_bundle.tokenizer()(t, add_special_tokens=False)["input_ids"][-1] for t in (" red", " bridge")]
    numbers = texts.words(np.array([[ids[0], ids[1], -1]]))
    assert [texts.names[n] for n in numbers[0]] == ["red", "bridge", ""]
    assert texts.decode([ids[0], -1, ids[1]]) == " red bridge"
