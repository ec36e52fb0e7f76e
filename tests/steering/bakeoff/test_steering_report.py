"""Bake-off and its report: every arm is tuned equally, on one half, and scored on the other; the report is complete."""

import json
import statistics
from dataclasses import replace

import pytest
import torch

from steering.bakeoff import methods
from steering.bakeoff.checks import Check, compare_arms
from steering.bakeoff.concepts import Concept, load
from steering.bakeoff.methods import ARMS, SETTINGS, Kit, interval, run_arms
from steering.bakeoff.steering_report import markdown, table_of, write
from steering.calibration import Calibration, SweetSpot
from steering.catalogue.bundle import Bundle
from tests.support import small_bundle

TUNE, TEST = ("hello there", "what should I do"), ("how are you", "the bridge is red")
CONCEPT = Concept("bridge", "lexical", ("Speak of the bridge.", "The bridge."), "bridge|red|long|[^a]")


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    tokenizer = small_bundle.tokenizer()
    model = small_bundle.model(len(tokenizer))
    opened = Bundle.open(small_bundle.write_bundle(tmp_path_factory.mktemp("kit") / "small"))
    curve = Calibration(knots=((-1.0, -4.0), (0.0, 0.0), (1.0, 4.0)), works=True, words=("bridge", "red"))
    features = [
        f.model_copy(update={"dose": 4.0, "sweet_spot": SweetSpot(low=0.1, high=1.0), "calibration": curve})
        for f in opened.features
    ]
    torch.manual_seed(0)
    return Kit.prepare(model, tokenizer, replace(opened, features=features), TUNE, TEST)


@pytest.fixture(scope="module")
def results(kit):
    patch = pytest.MonkeyPatch()
    patch.setattr(methods, "PAIRS", 8)
    patch.setattr(methods, "TOKENS", 8)
    found = run_arms(kit, CONCEPT, seeds=(0, 1), on_progress=lambda _: None)
    patch.undo()
    return found


def test_every_arm_runs_in_one_order(results):
    assert [r.arm for r in results] == list(ARMS)


def test_arms_have_the_same_number_of_settings_at_most(results):
    tuned = {r.arm: len(r.tuned) for r in results}
    assert max(tuned.values()) == len(SETTINGS)
    assert {tuned[a] for a in ("DiffMean", "probe", "SAE add", "SAE clamp", "random direction", "sign flip")} == {
        len(SETTINGS)
    }


def test_an_arm_is_scored_on_other_questions_than_it_was_tuned_on(results):
    assert not set(TUNE) & set(TEST)
    assert all(len(r.score.hits) == len(TEST) * 2 for r in results)  # two seeds


def test_an_unsteered_model_loses_nothing(results):
    plain = next(r for r in results if r.arm == "unsteered")
    assert max(map(abs, plain.score.lost)) < 1e-4


def test_quality_is_nothing_without_the_concept_and_two_at_best():
    assert methods._composite(0.0, 0.0, 0.0, 0.0) == 0.0
    assert methods._composite(1.0, 0.0, 0.0, 0.0) == pytest.approx(2.0)
    assert methods._composite(1.0, -3.0, 0.0, 0.0) < 0.6  # too likely is as bad as too unlikely
    assert methods._composite(1.0, 0.0, 0.4, 0.0) == 0.0
    assert methods._composite(1.0, 0.0, 0.0, 1.2) == 0.0


def test_an_interval_holds_the_mean_and_narrows_with_more():
    few, many = [0.0, 1.0] * 8, [0.0, 1.0] * 200
    assert interval(few)[0] < statistics.mean(few) < interval(few)[1]
    assert interval(many)[1] - interval(many)[0] < interval(few)[1] - interval(few)[0]


def test_the_report_has_every_arm_every_line_and_says_missed_where_it_was(results, tmp_path):
    checks = [*compare_arms(results), Check("Q0", "something", 0.3, "≥ 1", False)]
    write(tmp_path, {"model": "small"}, checks, results)
    text = (tmp_path / "steering.md").read_text()
    assert all(f"| {r.arm} |" in text for r in results)
    assert "**missed**" in text
    record = json.loads((tmp_path / "steering.json").read_text())
    assert len(record["results"]) == len(results)
    assert (tmp_path / "bakeoff.png").stat().st_size > 2000
    assert markdown({}, checks, table_of(results), results).count("\n") > 20


def test_concepts_are_fixed_and_can_be_known():
    assert len(load("general")) == 40
    assert {c.kind for c in load("general")} == {"lexical", "stylistic", "abstract"}
    assert sum(c.kind == "lexical" for c in load("general")) == 20
    harbor = {c.name: c for c in load("harbor")}
    assert harbor["golden-gate"].shows("I stand at the Golden Gate")
    assert not harbor["golden-gate"].shows("I stand at the door")
