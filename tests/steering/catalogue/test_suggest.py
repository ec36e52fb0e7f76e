"""Suggestions: what is named after the wish is found with a dose, unmeasured features are not, and nonsense finds nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from steering.calibration import Calibration, SweetSpot
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import BundleInfo, Feature
from steering.catalogue.suggest import LOAD, Clause, clauses, suggest
from steering.errors import SteeringError
from steering.spec import Intervention, Preset, SteeringSpec
from tests.support import small_bundle

LABELS = ("outer space", "astronomy", "cooking and recipes", "law", "saying sorry", "formal letters")


def measured(i, label, *, works=True, negative=True):
    below = SweetSpot(low=-1.0, high=-0.2) if negative else None
    curve = Calibration(knots=((-1.0, -4.0), (0.0, 0.0), (1.0, 4.0)), works=works, negative=below)
    spot = SweetSpot(low=0.2, high=1.0)
    return Feature(id=f"b/{i}", index=i, label=label, dose=4.0, typical_max=3.0, sweet_spot=spot, calibration=curve)


def alike(query, texts):
    """Share of the query's words that a text has; "space" and "astronomy" are related."""
    related = {"space": {"astronomy"}, "poetic": {"poet"}}
    wanted = query.lower().split()
    return [
        sum(w in t.lower().split() or bool(related.get(w, set()) & {*t.lower().split()}) for w in wanted) / len(wanted)
        for t in texts
    ]


def preset(name, prompt=""):
    spec = SteeringSpec(features=(Intervention(id="b/1", strength=1.0),))
    return Preset(id=name.lower(), name=name, model="b", steering=spec, comparison_prompt=prompt)


@pytest.fixture
def bundle():
    info = BundleInfo(name="b", model="m", hook="layers.1", revision="r1", typical_norm=8)
    return Bundle(Path(), info, small_bundle.sae(), [measured(i, label) for i, label in enumerate(LABELS)])


def test_the_features_that_are_named_after_the_wish_are_found_with_doses_and_reasons(bundle):
    found = suggest(bundle, [], "talk about space", alike)
    assert [s.feature.label for s in found.suggestions] == ["outer space", "astronomy"]
    assert all(0.2 <= s.dose <= 1.0 for s in found.suggestions)
    assert "outer space" in found.suggestions[0].why
    assert found.preset is None


def test_each_part_of_a_wish_gets_its_slider(bundle):
    found = suggest(bundle, [], "more space, more cooking and less formal", alike)
    assert {s.feature.label for s in found.suggestions} == {"outer space", "cooking and recipes", "formal letters"}
    assert next(s.dose for s in found.suggestions if s.feature.label == "formal letters") < 0


def test_less_is_not_suggested_where_no_negative_dose_was_measured(bundle):
    one_way = replace(bundle, features=[measured(5, "formal letters", negative=False)])
    assert not suggest(one_way, [], "less formal", alike).suggestions


def test_together_they_go_no_farther_than_one_may(bundle):
    same = replace(bundle.sae, W_dec=bundle.sae.W_dec[:1].expand_as(bundle.sae.W_dec).contiguous())
    found = suggest(replace(bundle, sae=same), [], "space", alike)
    assert sum(s.dose for s in found.suggestions) == pytest.approx(LOAD, abs=0.02)


@pytest.mark.parametrize("wish", ["blorf", "xk 12 %%", "the of", "zzzz, qqqq", "o p q r", "??? !!!"])
def test_nonsense_finds_nothing(bundle, wish):
    found = suggest(bundle, [preset("Poet")], wish, alike)
    assert not found.suggestions
    assert found.preset is None


def test_a_preset_that_fits_as_well_as_the_best_feature_is_proposed(bundle):
    presets = [preset("Space", "You are obsessed with space."), preset("Poet", "Answer in poetic language.")]
    assert suggest(bundle, presets, "like a poet", alike).preset == presets[1]
    assert suggest(bundle, presets, "space", alike).preset == presets[0]
    assert suggest(bundle, presets, "cooking", alike).preset is None
    assert suggest(bundle, presets, "less space", alike).preset is None


def test_what_was_not_measured_to_work_is_not_proposed(bundle):
    dumb = replace(bundle, features=[measured(i, label, works=i != 0) for i, label in enumerate(LABELS)])
    assert all(s.feature.index != 0 for s in suggest(dumb, [], "space", alike).suggestions)
    with pytest.raises(SteeringError, match="tiller calibrate"):
        suggest(replace(bundle, features=[measured(0, "space", works=False)]), [], "space", alike)


def test_a_wish_is_taken_apart():
    assert clauses("more poetic, less formal and not so long") == [
        Clause("poetic", 1),
        Clause("formal", -1),
        Clause("long", -1),
    ]
    assert [c.prompt for c in clauses("answer like a pirate; cheerful")] == ["Answer like a pirate.", "Be cheerful."]
    with pytest.raises(SteeringError, match="say what replies"):
        clauses(" , ")


@pytest.mark.parametrize(
    ("wish", "subject"),
    [
        ("talk about ships", "ships"),
        ("answer like a pirate", "pirate"),
        ("make it spooky", "spooky"),
        ("obsessed with the sea", "sea"),
        ("You are a doctor", "doctor"),
        ("You think about cooking all the time", "cooking"),
        ("Work chess into everything you say", "chess"),
        ("like", "like"),
    ],
)
def test_the_words_with_which_one_asks_are_left_out_of_the_comparison(wish, subject):
    assert clauses(wish)[0].subject == subject
