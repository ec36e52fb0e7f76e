"""The shipped bundle matches its card, and its first persona shows its concept."""

import asyncio
import hashlib
from dataclasses import replace

import pytest
import torch

from bench.showpieces import NATURAL, replies
from server.engines.transformers.engine import TransformersEngine
from steering.bakeoff.personas import CONCEPTS, PROMPTS
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.interpret.mood_axes import MoodAxes
from steering.spec import SteeringSpec
from tests.support.paths import HARBOR as FOLDER


@pytest.fixture(scope="module")
def bundle():
    torch.set_num_threads(2)
    return Bundle.open(FOLDER)


def test_files_are_those_that_were_summed():
    for line in (FOLDER / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_weights_are_small_enough_for_a_repository():
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 64e6


def test_sae_passes_its_lines(bundle):
    assert bundle.info.metrics["explained_variance"] >= 0.75
    assert bundle.info.metrics["l0"] <= 48
    assert bundle.info.metrics["dead"] <= 0.01
    assert 2000 <= bundle.sae.d_sae <= 4096


def test_every_presets_feature_has_a_label_and_a_dose(bundle):
    catalogue = Catalogue([bundle])
    assert bundle.presets[0].id == "golden-gate"
    for preset in bundle.presets:
        for item in preset.steering.features:
            feature = catalogue.find(item.id)[1]
            assert feature.label and feature.dose, (preset.id, item.id)


def test_golden_gate_shows_when_steered_and_not_otherwise(bundle):
    sampling = replace(NATURAL, top_p=1.0, repetition_penalty=1.15)

    async def both():
        engine = TransformersEngine.load(bundle.model_path, hooks=[bundle.info.hook], device="cpu")
        catalogue = Catalogue([bundle])
        plain = await replies(engine, catalogue, SteeringSpec())
        steered = await replies(engine, catalogue, bundle.presets[0].steering, sampling=sampling)
        await engine.close()
        return plain, steered

    plain, steered = asyncio.run(both())
    shows = CONCEPTS["golden-gate"].shows
    assert sum(map(shows, plain)) / len(PROMPTS) <= 0.05
    assert sum(map(shows, steered)) / len(PROMPTS) >= 0.6


def test_moods_are_shown_as_scores_only_where_they_reach_a_bag_of_words(bundle):
    axes = MoodAxes.open(bundle.files, bundle.sae)
    assert axes is not None
    assert {a.name for a in axes.axes} >= {"joy", "anger", "sentiment", "formality"}
    assert all((a.shown_as == "score") == (a.auroc.low >= a.bag_of_words.value) for a in axes.axes)
    assert not any(a.shown_as == "score" for a in axes.axes)  # as the card says
    assert (bundle.files / "axes.json").stat().st_size < 1e6
