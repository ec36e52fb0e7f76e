"""The default bundle: its size, its labels, its sliders and its personas, as its card says."""

import re

import pytest

from recipes.smollm2.bundle import READ_OF, read_labels
from recipes.smollm2.model import PACKAGE
from recipes.smollm2.regions import REST, read_names
from server.settings import EMBEDDED
from steering.catalogue.bundle import Bundle
from steering.files import sha256
from steering.interpret.feature_map import FeatureMap
from steering.interpret.mood_axes import MoodAxes
from steering.sae import WEIGHTS
from steering.spec import VECTOR

MEGABYTES = 40
CALIBRATED, READY, PERSONAS, OF_FEATURES = 400, 200, 13, 11
MOST = 4
"""Features of a persona."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(EMBEDDED)


def test_all_files_together_are_small_enough_for_git():
    assert sum(f.stat().st_size for f in EMBEDDED.rglob("*") if f.is_file()) < MEGABYTES * 1e6


def test_the_model_is_the_packages_and_all_tokens_are_steered(bundle):
    assert bundle.info.package == PACKAGE
    assert bundle.info.scope == "all"
    assert bundle.layer == 12


def test_each_feature_that_fired_has_the_label_that_a_reader_gave_it(bundle):
    assert sha256(bundle.files / WEIGHTS) == READ_OF
    labels = read_labels()
    named = [f for f in bundle.features if f.examples]
    assert {f.index: f.label for f in named} == {f.index: labels[f.index].text for f in named}
    assert sum(f.label == "mixed" for f in named) <= 0.25 * len(named)
    assert not [f.label for f in named if re.search(r"<\||\|>|im_start|im_end|endoftext", f.label)]


def test_enough_sliders_are_measured_and_ready(bundle):
    measured = [f for f in bundle.features if f.calibration]
    ready = [f for f in measured if f.calibration and f.calibration.works and f.sweet_spot]
    assert len(measured) >= CALIBRATED
    assert len(ready) >= READY
    assert all(f.dose and 0 < f.dose < bundle.info.typical_norm for f in ready)


def test_a_persona_is_of_few_features_or_of_one_tone(bundle):
    of_features = [p for p in bundle.presets if not p.snapshots]
    assert len(bundle.presets) >= PERSONAS
    assert len(of_features) >= OF_FEATURES
    for preset in bundle.presets:
        assert 1 <= len(preset.steering.features) <= MOST
        assert preset.steering.scope == "all"
        assert preset.comparison_prompt
    for preset in [p for p in bundle.presets if p.snapshots]:
        assert [i.id for i in preset.steering.features] == [VECTOR + preset.id]
        assert "difference of means" in preset.snapshots[0].label


def test_the_corpus_for_updates_is_there():
    assert (EMBEDDED / "corpus.jsonl.xz").stat().st_size > 100_000


def test_the_map_has_a_place_for_each_feature_and_a_readers_name_for_each_region(bundle):
    drawn, names = FeatureMap.read(bundle.files, bundle.sae.d_sae), set(read_names().values())
    assert drawn.about.method == "labels"
    assert {c.name for c in drawn.about.clusters} == names | set(REST)
    assert sum(c.size for c in drawn.about.clusters) == bundle.sae.d_sae
    assert drawn.points.abs().max() <= 1


def test_mood_axes_were_fitted_to_this_sae(bundle):
    axes = MoodAxes.open(bundle.files, bundle.sae)
    assert axes is not None
    assert {a.name for a in axes.axes} >= {"anger", "joy", "sentiment", "formality"}
