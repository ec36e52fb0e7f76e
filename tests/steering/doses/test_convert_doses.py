"""Stored presets after doses were measured anew: each pushes exactly as far as before."""

from dataclasses import replace
from pathlib import Path

import pytest

from steering.calibration import Calibration, SweetSpot
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import BundleInfo, Feature
from steering.catalogue.resolve import Catalogue
from steering.doses.bundle_doses import convert_doses
from steering.spec import Intervention, Preset, SteeringSpec
from tests.support import small_bundle

INFO = BundleInfo(name="b", model="m", hook="layers.1", revision="r1", typical_norm=8)


def feature(i, knots=()):
    """A feature whose dose 1.0 is the raw strength of the last knot; unmeasured without knots."""
    if not knots:
        return Feature(id=f"b/{i}", index=i, typical_max=3.0)
    measured = Calibration(knots=((0.0, 0.0), *knots), works=True)
    return Feature(
        id=f"b/{i}", index=i, typical_max=3.0, dose=knots[-1][1], sweet_spot=SweetSpot(low=0.2, high=1.0), calibration=measured
    )  # fmt: skip


def bundle_of(*features):
    rest = [feature(i) for i in range(len(features), small_bundle.FEATURES)]
    return Bundle(Path(), INFO, small_bundle.sae(), [*features, *rest])


@pytest.mark.parametrize("mode", ["add", "clamp"])
@pytest.mark.parametrize("strength", [0.3, 1.0, 1.7, -0.5])
def test_a_preset_pushes_as_far_as_before_when_dose_1_becomes_another_push(mode, strength):
    before = bundle_of(feature(0, [(0.5, 1.0), (1.0, 4.0)]), feature(1))
    after = [feature(0, [(0.5, 6.0), (1.0, 10.0)]), feature(1, [(1.0, 5.0)]), *before.features[2:]]
    items = (Intervention(id="b/0", strength=strength, mode=mode), Intervention(id="b/1", strength=0.4))
    preset = Preset(id="p", name="P", model="b", steering=SteeringSpec(features=items))
    converted = convert_doses(preset, before, after)
    assert converted.steering.features[0].strength != strength
    anew = Catalogue([replace(before, features=after)]).resolve(converted.steering).interventions["layers.1"]
    old = Catalogue([before]).resolve(preset.steering).interventions["layers.1"]
    assert [i.raw for i in anew] == pytest.approx([i.raw for i in old], rel=0.01)


def test_a_preset_in_raw_units_and_features_that_read_are_left_alone():
    before = bundle_of(feature(0, [(1.0, 4.0)]))
    after = [feature(0, [(1.0, 8.0)]), *before.features[1:]]
    raw = Preset(id="r", name="R", model="b", steering=SteeringSpec(features=(Intervention(id="b/0", strength=3.0),), unit="raw"))  # fmt: skip
    assert convert_doses(raw, before, after) == raw
    scaled = SteeringSpec(features=(Intervention(id="b/0", strength=2.0, mode="scale"),))
    assert convert_doses(raw.model_copy(update={"steering": scaled}), before, after).steering == scaled
