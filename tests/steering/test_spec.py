"""Steering specs: equal effects have equal canonical forms and fingerprints."""

import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from steering.errors import BadPosition, BadStrength
from steering.spec import Intervention, Preset, SteeringSpec, Where, indices

MODES = ("add", "clamp", "scale", "ablate")
interventions = st.lists(
    st.builds(
        Intervention,
        id=st.integers(0, 40).map(lambda i: f"b/{i}"),
        mode=st.sampled_from(MODES),
        strength=st.floats(-3, 3, allow_nan=False).map(lambda x: round(x, 2)),
    ),
    max_size=8,
    unique_by=lambda f: f.id,
)
specs = st.builds(SteeringSpec, features=interventions.map(tuple), scale=st.sampled_from((0.0, 0.5, 1.0, 2.0)))


def spec(*features, **rest):
    return SteeringSpec(features=tuple(Intervention(id=i, strength=s, mode=m) for i, s, m in features), **rest)


@given(specs)
def test_canonical_form_of_a_canonical_form_is_itself(s):
    assert s.canonical().canonical() == s.canonical()


@given(specs)
def test_order_of_features_does_not_change_the_fingerprint(s):
    assert s.model_copy(update={"features": s.features[::-1]}).fingerprint == s.fingerprint


@given(specs)
def test_fingerprint_survives_a_trip_through_json(s):
    assert SteeringSpec.model_validate_json(s.model_dump_json()).fingerprint == s.fingerprint


def test_what_does_nothing_is_dropped():
    s = spec(("b/1", 0.0, "add"), ("b/2", 1.0, "scale"))
    assert s.fingerprint == "s_0"
    assert s.fingerprint == SteeringSpec().fingerprint == "s_0"


def test_clamp_to_zero_is_an_ablation():
    assert spec(("b/1", 0.0, "clamp")).fingerprint == spec(("b/1", 7.0, "ablate")).fingerprint


def test_master_scale_is_folded_into_additive_strengths():
    assert spec(("b/1", 1.0, "add"), scale=0.5).fingerprint == spec(("b/1", 0.5, "add")).fingerprint


def test_half_an_ablation_is_half_the_live_activation():
    assert spec(("b/1", 0.0, "ablate"), scale=0.5).canonical().features[0] == Intervention(
        id="b/1", strength=0.5, mode="scale"
    )


def test_master_scale_of_zero_steers_nothing():
    assert spec(("b/1", 3.0, "clamp"), ("b/2", 1.0, "add"), scale=0.0).fingerprint == "s_0"


@pytest.mark.parametrize("change", [{"unit": "raw"}, {"scope": "all"}, {"scale": 2.0}])
def test_each_field_is_part_of_the_fingerprint(change):
    s = spec(("b/1", 1.0, "clamp"))
    assert s.model_copy(update=change).fingerprint != s.fingerprint


@pytest.mark.parametrize("strength", [math.nan, math.inf, -math.inf])
def test_strength_that_is_not_finite_is_refused(strength):
    with pytest.raises(ValidationError):
        Intervention(id="b/1", strength=strength)


def test_feature_given_twice_is_refused_by_name():
    with pytest.raises(ValidationError, match="'b/1' is there twice, at 0 and at 1"):
        spec(("b/1", 1.0, "add"), ("b/1", 2.0, "add"))


def test_more_than_32_features_are_refused():
    with pytest.raises(ValidationError, match="32"):
        spec(*((f"b/{i}", 1.0, "add") for i in range(33)))


def test_misspelt_key_is_refused():
    with pytest.raises(ValidationError, match="strenght"):
        SteeringSpec.model_validate({"features": [{"id": "b/1", "strenght": 1}]})


def test_spec_is_frozen():
    with pytest.raises(ValidationError):
        SteeringSpec().scale = 2


def test_explicit_entries_override_a_preset_by_id():
    merged = spec(("b/1", 1.0, "add"), ("b/2", 1.0, "add"), unit="max").overridden_by(
        spec(("b/2", 3.0, "clamp")), {"features"}
    )
    assert {f.id: f.strength for f in merged.features} == {"b/1": 1.0, "b/2": 3.0}
    assert merged.unit == "max"


def test_preset_id_is_a_slug():
    with pytest.raises(ValidationError):
        Preset(id="Golden Gate!", name="x")


def test_two_at_once_keep_their_own_and_the_upper_one_counts_where_both_speak():
    base = SteeringSpec(
        features=(Intervention(id="a/1", strength=0.5), Intervention(id="a/2", strength=0.4)), scale=0.5
    )
    over = SteeringSpec(features=(Intervention(id="a/2", strength=0.1), Intervention(id="a/3", strength=0.2)))
    both = over.on_top_of(base)
    assert {f.id: f.strength for f in both.features} == {"a/1": 0.25, "a/2": 0.1, "a/3": 0.2}
    assert SteeringSpec().on_top_of(base).fingerprint == base.fingerprint
    silent = SteeringSpec(features=(Intervention(id="a/1", strength=0.0), Intervention(id="a/2", strength=0.0)))
    assert silent.on_top_of(base).fingerprint == "s_0"


def test_two_in_other_units_cannot_be_one_and_it_says_what_to_do():
    base = SteeringSpec(features=(Intervention(id="a/1", strength=0.5),))
    raw = SteeringSpec(features=(Intervention(id="a/2", strength=9.0),), unit="raw")
    with pytest.raises(BadStrength, match=r"steering\.default to false"):
        raw.on_top_of(base)


WHERE = [
    {"skip_special": True},
    {"scope": "positions", "positions": (3, (0, 2))},
    {"scope": "generated", "positions": ((-4, None),)},
    {"norm": "preserve"},
]


@pytest.mark.parametrize("change", WHERE)
def test_where_and_how_it_acts_is_part_of_the_fingerprint(change):
    s = spec(("b/1", 1.0, "add"))
    assert SteeringSpec.model_validate({**s.model_dump(), **change}).fingerprint != s.fingerprint


def test_a_spec_from_before_these_fields_keeps_its_fingerprint():
    s = spec(("b/1", 1.5, "add"), scope="all")
    features = [{"id": "b/1", "mode": "add", "strength": 1.5}]
    before = json.dumps({"features": features, "scale": 1.0, "scope": "all", "unit": "dose"}, separators=(",", ":"))
    assert s.fingerprint == "s_" + hashlib.sha256(before.encode()).hexdigest()[:16]


@pytest.mark.parametrize("change", WHERE)
def test_without_features_nothing_is_left_of_where_it_would_act(change):
    assert SteeringSpec.model_validate(change).canonical() == SteeringSpec()
    assert SteeringSpec.model_validate(change).fingerprint == "s_0"


def test_order_and_repetition_of_positions_do_not_change_the_fingerprint():
    given = [(5, (0, 2), -1, (3, None)), (-1, (3, None), 5, (0, 2), 5)]
    one, other = (spec(("b/1", 1.0, "add"), scope="positions", positions=p) for p in given)
    assert one.fingerprint == other.fingerprint
    assert one.canonical() == other.canonical() == SteeringSpec.model_validate_json(one.canonical().model_dump_json())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["1"], "'1' is no place in the prompt"),
        ([True], "true is no place"),
        ([1.5], "1.5 is no place"),
        ([[1]], "is no place"),
        ([[1, 2, 3]], "is no place"),
        ([[None, 2]], "is no place"),
        ([[1, [2]]], "is no place"),
        ([2**40], "is no place"),
        ([[3, 3]], r"\[3, 3\] holds no token"),
        ([[-1, -4]], "holds no token"),
        ([0] * 65, "64"),
    ],
)
def test_a_position_that_means_nothing_is_refused(given, says):
    with pytest.raises(ValidationError, match=says):
        SteeringSpec.model_validate({"scope": "positions", "positions": given})


@pytest.mark.parametrize("given", [[3.0], [[-3, 2]], [[2, -2]], [[0, None]], [-1]])
def test_a_position_that_some_prompt_has_is_taken(given):
    assert SteeringSpec.model_validate({"scope": "positions", "positions": given}).positions


@pytest.mark.parametrize(("scope", "positions"), [("all", [0]), ("assistant", [[0, 2]]), ("positions", [])])
def test_positions_and_scope_go_together_or_are_refused(scope, positions):
    with pytest.raises(ValidationError, match="the scope"):
        SteeringSpec.model_validate({"scope": scope, "positions": positions})


def test_positions_count_as_in_a_python_list():
    tokens = list(range(10))
    for a in range(-12, 12):
        assert list(indices([(a, None)], 10)) == tokens[a:]
        for b in range(-12, 12):
            assert list(indices([(a, b)], 10)) == tokens[a:b]
    assert list(indices([0, -1, 9], 10)) == [0, 9, 9]
    for beyond in (10, -11):
        with pytest.raises(BadPosition, match=f"no token {beyond}: the prompt has 10, so -10…9"):
            list(indices([beyond], 10))


def test_a_request_replaces_a_presets_positions_by_its_scope():
    preset = spec(("b/1", 1.0, "add"), scope="positions", positions=(0, 1))
    assert preset.overridden_by(SteeringSpec(scale=0.5), {"scale"}).positions == (0, 1)
    assert preset.overridden_by(SteeringSpec(scope="all"), {"scope"}).where == Where("all")
