"""Composition of a spec: its load, and overlapping features."""

from pathlib import Path

import pytest
import torch

from steering.calibration import Calibration
from steering.catalogue.bundle import Bundle
from steering.catalogue.composition import compose, cosines
from steering.catalogue.feature import BundleInfo, Feature
from steering.catalogue.resolve import Catalogue
from steering.sae import SAE
from steering.spec import Intervention, SteeringSpec


@pytest.fixture
def bundle():
    """Features 0 and 1 at a right angle, 2 nearly 0, 3 the opposite of 0; width 256, where chance cosines are small."""
    rows = torch.zeros(4, 256)
    rows[0, 0] = rows[1, 1] = 1.0
    rows[2, 0], rows[2, 2] = 0.9, 0.19**0.5
    rows[3, 0] = -1.0
    sae = SAE(rows.T.contiguous(), torch.zeros(4), rows, torch.zeros(256), torch.zeros(4))
    info = BundleInfo(name="b", model="m", hook="layers.1", revision="r1", typical_norm=10)
    words = ("bridge", "red", "long")
    features = [
        Feature(id=f"b/{i}", index=i, dose=5.0, typical_max=3.0, calibration=Calibration(words=words if i < 2 else ()))
        for i in range(4)
    ]
    return Bundle(Path(), info, sae, features)


def look(bundle, *items):
    features = tuple(Intervention(id=f"b/{i}", strength=s, mode=m) for i, s, m in items)
    return compose(Catalogue([bundle]).resolve(SteeringSpec(features=features)), bundle)


def test_the_load_is_what_the_cosines_make_of_the_doses(bundle):
    items = ((0, 0.7, "add"), (1, 0.5, "scale"), (2, -0.4, "add"), (3, 1.2, "clamp"))
    features = tuple(Intervention(id=f"b/{i}", strength=s, mode=m) for i, s, m in items)
    resolved = Catalogue([bundle]).resolve(SteeringSpec(features=features))
    told, doses = torch.tensor(cosines(resolved, bundle)), torch.tensor([a.dose for a in resolved.applied])

    assert float((doses @ told @ doses).sqrt()) == pytest.approx(look(bundle, *items).load, abs=1e-3)
    assert told[1].tolist() == [0.0] * 4  # what is multiplied pushes nowhere


def test_one_feature_goes_as_far_as_its_dose(bundle):
    assert look(bundle, (1, 0.7, "add")).load == pytest.approx(0.7)
    assert look(bundle, (1, -0.7, "add")).load == pytest.approx(0.7)


def test_right_angles_add_like_lengths_and_the_same_way_like_numbers(bundle):
    assert look(bundle, (0, 0.6, "add"), (1, 0.8, "add")).load == pytest.approx(1.0)
    assert look(bundle, (0, 0.5, "add"), (2, 0.5, "add")).load == pytest.approx(0.975, abs=0.01)
    assert look(bundle, (0, 0.5, "add"), (3, 0.5, "add")).load == 0


def test_the_load_says_what_to_expect(bundle):
    assert look(bundle, (0, 0.9, "add")).verdict == "ok"
    assert look(bundle, (0, 2.1, "add")).verdict == "strained"
    assert look(bundle, (0, 2.1, "add"), (1, 2.1, "add")).verdict == "broken"


def test_what_pushes_the_same_way_is_told_and_what_works_against_each_other(bundle):
    (same,) = look(bundle, (0, 0.5, "add"), (2, 0.5, "add")).overlaps
    assert (same.one, same.other, same.cosine) == ("b/0", "b/2", 0.9)
    assert "much the same" in same.says
    (against,) = look(bundle, (0, 0.5, "add"), (3, 0.5, "add")).overlaps
    assert "against each other" in against.says


def test_the_same_words_are_an_overlap_too(bundle):
    (same,) = look(bundle, (0, 0.5, "add"), (1, 0.5, "add")).overlaps
    assert same.shared == 1.0
    assert same.cosine == 0.0


def test_what_does_not_push_does_not_count(bundle):
    nothing = look(bundle, (0, 0.0, "ablate"), (2, 3.0, "scale"))
    assert (nothing.load, nothing.verdict, nothing.overlaps) == (0.0, "ok", ())
