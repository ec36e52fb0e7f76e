"""Bundle: features from a folder, found by id and with doses."""

import json

import pytest
import torch

from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.errors import BadBundle, UnknownFeature
from steering.spec import Intervention, SteeringSpec
from tests.steering.conftest import random_sae

INFO = {"name": "tiny", "model": "model", "hook": "layers.1", "revision": "r1", "typical_norm": 10.0}
ROWS = [
    {
        "index": 3,
        "label": "bridges",
        "label_source": "hand",
        "typical_max": 4.0,
        "dose": 8.0,
        "density": 0.01,
        "sweet_spot": {"low": 0.5, "high": 1.0, "method": "test", "n": 2, "date": "2026-01-01"},
    },
    {
        "index": 4,
        "label": "on “bridge”",
        "label_source": "auto",
        "typical_max": 2.0,
        "top_logits": {"positive": ["span"]},
    },
]


@pytest.fixture
def folder(tmp_path):
    random_sae().save(tmp_path / "revisions/r1", hook="layers.1", model="tiny")
    (tmp_path / "bundle.json").write_text(json.dumps(INFO))
    (tmp_path / "revisions/r1/features.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "presets.json").write_text(json.dumps([{"id": "bridge", "name": "Bridge", "readonly": True}]))
    return tmp_path


@pytest.fixture
def catalogue(folder):
    return Catalogue([Bundle.open(folder)])


def one(strength, mode="add", index=3, **rest):
    return SteeringSpec(features=(Intervention(id=f"tiny/{index}", strength=strength, mode=mode),), **rest)


@pytest.mark.parametrize(("unit", "raw"), [("dose", 8.0), ("max", 4.0), ("raw", 1.0)])
def test_units_become_raw_activations(catalogue, unit, raw):
    applied = catalogue.resolve(one(1.0, unit=unit)).applied[0]
    assert applied.raw == raw
    assert applied.dose == pytest.approx(raw / 8)
    assert applied.max == pytest.approx(raw / 4)


def test_unmeasured_feature_doses_by_the_layers_norm_and_says_so(catalogue):
    applied = catalogue.resolve(one(1.0, index=4)).applied[0]
    assert applied.raw == 5.0
    assert not applied.measured
    assert applied.in_sweet_spot is None


def test_scale_is_a_factor_in_every_unit(catalogue):
    applied = catalogue.resolve(one(0.25, mode="scale")).applied[0]
    assert (applied.raw, applied.dose, applied.max) == (0.25, 0.25, 0.25)


def test_push_norm_is_told_in_typical_norms(catalogue):
    resolved = catalogue.resolve(one(2.0))
    assert resolved.push_norm["layers.1"] == pytest.approx(1.6, rel=1e-4)
    torch.testing.assert_close(resolved.edits["layers.1"].push, 16 * random_sae().W_dec[3])


def test_master_scale_beside_a_clamp_scales_the_whole_edit(catalogue):
    full, half = (catalogue.resolve(one(1.0, mode="clamp", scale=s)).edits["layers.1"] for s in (1.0, 0.5))
    x = torch.randn(9, 32)
    torch.testing.assert_close(half.delta(x), full.delta(x) / 2)


def test_empty_spec_has_no_edits(catalogue):
    assert catalogue.resolve(SteeringSpec()).edits == {}


@pytest.mark.parametrize(
    "name", ["tiny/64", "tiny/x", "other/3", "3", "tiny/-1", "tiny/", "tiny/01", "tiny/٣", "tiny/" + "9" * 5000]
)
def test_unknown_feature_is_named_with_what_there_is(catalogue, name):
    with pytest.raises(UnknownFeature, match="tiny/0…63"):
        catalogue.find(name)


def test_neighbours_are_the_nearest_directions(catalogue):
    bundle = catalogue.bundles["tiny"]
    (nearest, cosine), *_ = bundle.neighbours(3)
    cosines = bundle.sae.W_dec @ bundle.sae.W_dec[3]
    assert nearest.index != 3
    assert cosine == pytest.approx(float(cosines.sort(descending=True).values[1]))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("bundle.json", "{"),
        ("bundle.json", "{}"),
        ("revisions/r1/features.jsonl", '{"index": 999}'),
        ("presets.json", '[{"id": "X Y"}]'),
    ],
)
def test_damaged_bundle_is_refused(folder, file, text):
    (folder / file).write_text(text)
    with pytest.raises(BadBundle):
        Bundle.open(folder)
