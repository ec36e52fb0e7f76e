"""Revisions: published completely or not at all, verified when opened, with feature numbers that are never reused."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature
from steering.catalogue.resolve import Catalogue
from steering.catalogue.revisions import Revisions
from steering.edits import as_text, as_vector
from steering.errors import BadBundle, UnknownFeature
from steering.spec import Intervention, Preset, SteeringSpec
from tests.support import small_bundle

MEASURED = Feature(id="", index=1, density=0.5, typical_max=8.0, max_activation=9.0)


@pytest.fixture
def base(tmp_path):
    return small_bundle.write_bundle(tmp_path / "small")


@pytest.fixture
def revisions(base, tmp_path):
    return Revisions(base, tmp_path / "live")


@pytest.fixture
def first(revisions):
    return revisions.open("r1")


def turned(sae, row, cosine=0.0):
    """The SAE with one direction turned."""
    rows = sae.W_dec.clone()
    other = torch.nn.functional.normalize(torch.linspace(-1, 1, sae.d_in), dim=0)
    other = torch.nn.functional.normalize(other - (other @ rows[row]) * rows[row], dim=0)
    rows[row] = cosine * rows[row] + (1 - cosine**2) ** 0.5 * other
    return replace(sae, W_dec=rows)


def one(number, strength=1.0, mode="add", **rest):
    return SteeringSpec(features=(Intervention(id=f"small/{number}", strength=strength, mode=mode),), **rest)


def test_published_revision_opens_as_it_was_written(revisions, first):
    sae = turned(first.sae, 5)
    manifest = revisions.publish(first, sae, figures={"explained_variance": 0.9}, report={"gates": "passed"})
    assert (manifest.revision, manifest.parent) == ("r2", "r1")
    assert revisions.names() == ["r1", "r2"]
    assert revisions.manifest("r2") == manifest
    again = revisions.open("r2")
    assert again.sae.W_dec.equal(sae.W_dec)
    assert again.info.revision == "r2"
    assert again.info.metrics == {"explained_variance": 0.9}
    assert [f.id for f in again.features] == [f.id for f in first.features]


def test_shipped_bundle_is_left_alone(revisions, first, base):
    before = {p: p.read_bytes() for p in base.rglob("*") if p.is_file()}
    revisions.publish(first, first.sae)
    assert {p: p.read_bytes() for p in base.rglob("*") if p.is_file()} == before


def test_labels_and_doses_are_carried_and_measures_are_new(revisions, first):
    revisions.publish(first, first.sae, [MEASURED])
    feature = revisions.open("r2").numbered[1]
    assert (feature.label, feature.dose, feature.sweet_spot) == ("bridges", 6.0, first.numbered[1].sweet_spot)
    assert (feature.density, feature.typical_max) == (0.5, 8.0)
    assert not feature.stale


@pytest.mark.parametrize(("cosine", "stale"), [(0.96, False), (0.94, True)])
def test_label_of_a_direction_that_turned_is_stale(revisions, first, cosine, stale):
    revisions.publish(first, turned(first.sae, 1, cosine))
    second = revisions.open("r2")
    assert second.numbered[1].stale is stale
    revisions.publish(second, second.sae)
    assert revisions.open("r3").numbered[1].stale is stale


def test_new_label_is_not_stale(revisions, first):
    label = Feature(id="", index=1, label="spans", label_source="auto")
    revisions.publish(first, turned(first.sae, 1), [label])
    feature = revisions.open("r2").numbered[1]
    assert (feature.label, feature.stale) == ("spans", False)


def test_recycled_row_is_another_feature_with_another_number(revisions, first):
    numbers = revisions.numbers_after("r1", recycled=[1, 7], grown=2)
    assert numbers == (0, 48, *range(2, 7), 49, *range(8, 48), 50, 51)
    sae = first.sae
    grown = replace(
        sae,
        W_enc=torch.cat([sae.W_enc, sae.W_enc[:, :2]], 1),
        W_dec=torch.cat([sae.W_dec, sae.W_dec[:2]]),
        b_enc=torch.zeros(50),
        threshold=torch.full((50,), 0.1),
    )
    revisions.publish(first, grown, [Feature(id="", index=48, density=0.25)], numbers=numbers)
    second = revisions.open("r2")
    catalogue = Catalogue([second])
    assert catalogue.find("small/48")[1].row == 1
    assert catalogue.find("small/48")[1].density == 0.25
    assert catalogue.find("small/48")[1].label == ""
    assert catalogue.find("small/51")[1].row == 49
    assert catalogue.resolve(one(48, unit="raw")).edits["layers.1"].push.equal(grown.W_dec[1])
    with pytest.raises(UnknownFeature, match=r"'small/1' \(bridges\) was retired in revision 'r2'; presets"):
        catalogue.find("small/1")
    with pytest.raises(UnknownFeature, match="small/0…51"):
        catalogue.find("small/52")
    nearest = second.neighbours(48)
    assert "small/48" not in [f.id for f, _ in nearest]
    assert nearest[0][0].id == "small/51"


def test_tombstones_are_handed_on(revisions, first):
    revisions.publish(first, first.sae, numbers=revisions.numbers_after("r1", recycled=[1]))
    second = revisions.open("r2")
    revisions.publish(second, second.sae, numbers=revisions.numbers_after("r2", recycled=[2]))
    third = revisions.open("r3")
    assert {n: (r.revision, r.label) for n, r in third.retired.items()} == {
        1: ("r2", "bridges"),
        2: ("r3", first.numbered[2].label),
    }


def test_names_and_numbers_are_not_used_again_on_another_branch(revisions, first):
    revisions.publish(first, first.sae, numbers=revisions.numbers_after("r1", recycled=[1]))
    other = revisions.publish(first, first.sae, numbers=revisions.numbers_after("r1", recycled=[1]))
    assert (other.revision, other.parent) == ("r3", "r1")
    assert other.numbers[1] == 49
    assert revisions.open("r2").features[1].index == 48


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (tuple(range(47)), "47 feature numbers for the 48 rows"),
        ((0, 0, *range(2, 48)), "47 feature numbers for the 48 rows"),
        ((0, 48, *range(2, 48)), "feature number 48 was used before; new features are numbered from 49 on"),
    ],
)
def test_numbers_that_would_mean_two_features_are_refused(revisions, first, numbers, message):
    revisions.publish(first, first.sae, numbers=revisions.numbers_after("r1", recycled=[1]))
    with pytest.raises(BadBundle, match=message):
        revisions.publish(first, first.sae, numbers=numbers)
    assert revisions.names() == ["r1", "r2"]


def test_sae_of_another_width_is_refused(revisions, first):
    sae = first.sae
    rows = torch.nn.functional.normalize(sae.W_dec[:, :32], dim=1)
    narrow = replace(sae, W_dec=rows, W_enc=sae.W_enc[:32], b_dec=sae.b_dec[:32])
    with pytest.raises(BadBundle, match="width 32; 'r1' reads one of 64"):
        revisions.publish(first, narrow)


@pytest.mark.parametrize("file", ["sae_weights.safetensors", "features.jsonl", "cfg.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_damaged_revision_is_refused_by_the_name_of_its_file(revisions, first, file, damage):
    revisions.publish(first, first.sae)
    path = revisions.live / "r2" / file
    if damage == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-9] if damage == "cut" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        if file == "manifest.json" and damage == "changed":
            path.write_bytes(data.replace(b'"small"', b'"other"'))
    with pytest.raises(BadBundle, match="r2" if (file, damage) == ("manifest.json", "gone") else file):
        revisions.open("r2")
    assert revisions.open("r1").sae.d_sae == 48


def test_revision_made_from_another_shipped_sae_is_refused(revisions, first, base, tmp_path):
    revisions.publish(first, first.sae)
    turned(first.sae, 3).save(base / "revisions/r1", hook="layers.1", model="small")
    with pytest.raises(BadBundle, match="came from another 'r1'"):
        Revisions(base, tmp_path / "live").open("r2")


def test_unknown_revision_is_told_which_there_are(revisions, first):
    revisions.publish(first, first.sae)
    for name in ("r9", "../small", ""):
        with pytest.raises(BadBundle, match="there are r1, r2"):
            revisions.open(name)


def test_what_a_killed_writer_left_behind_is_ignored_and_goes(revisions, first):
    left = revisions.live / ".draft-r2"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    assert revisions.names() == ["r1"]
    revisions.publish(first, first.sae)
    assert sorted(p.name for p in revisions.live.iterdir()) == [".lock", "r2"]


def test_failed_candidates_are_kept_aside_with_the_reasons(revisions, first):
    folders = [revisions.quarantine({"why": f"gate {i}"}, sae=first.sae) for i in range(10)]
    assert json.loads((folders[-1] / "report.json").read_text()) == {"why": "gate 9"}
    assert (folders[-1] / "sae_weights.safetensors").exists()
    assert len(list((revisions.live / "rejected").iterdir())) == 8
    assert revisions.names() == ["r1"]


WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from steering.catalogue.revisions import Revisions
torch.set_num_threads(1)
rng, base, live = random.Random(0), Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(20):
    child = os.fork()
    if not child:
        revisions = Revisions(base, live)
        parent = revisions.open(revisions.names()[-1])
        while True:
            numbers = revisions.numbers_after(parent.info.revision, recycled=[3])
            parent = revisions.open(revisions.publish(parent, parent.sae, numbers=numbers).revision)
    before, end = len(list(live.glob("r*"))), time.monotonic() + 300
    while len(list(live.glob("r*"))) == before:
        assert time.monotonic() < end, f"no revision was published beside {before}"
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(len(list(live.glob(".draft-*"))), flush=True)
"""


def test_every_revision_opens_whole_after_kill_9_at_twenty_random_moments(revisions, base):
    command = [sys.executable, "-c", WRITERS, str(base), str(revisions.live)]
    drafts = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout.split()
    opened = [revisions.open(name) for name in revisions.names()]
    assert len(drafts) == 20
    assert any(int(n) for n in drafts), "nobody was killed while writing"
    assert len(opened) > 20
    assert [b.info.revision for b in opened] == [f"r{n}" for n in range(1, len(opened) + 1)]
    assert len({b.features[3].index for b in opened}) == len(opened)


def test_vectors_survive_as_text_exactly():
    vector = torch.randn(64)
    assert as_vector(as_text(vector), 64).equal(vector)
    for text, problem in (("AAAAAA==", "width 64"), ("?", "damaged"), (as_text(vector * torch.nan), "width 64")):
        with pytest.raises(BadBundle, match=problem):
            as_vector(text, 64)


@pytest.fixture
def mine(first):
    """A preset with a pushed and a clamped feature, saved under r1."""
    items = (
        Intervention(id="small/1", strength=0.5),
        Intervention(id="small/2", strength=1.0, mode="clamp"),
        Intervention(id="small/3", strength=2.0, mode="scale"),
    )
    return first.pinned(Preset(id="mine", name="Mine", steering=SteeringSpec(features=items)))


@pytest.mark.parametrize("mode", ["add", "clamp", "ablate", "scale"])
def test_retired_feature_of_a_preset_steers_as_it_did(revisions, first, mode):
    spec = one(1, 0.5, mode)
    pins = first.pinned(Preset(id="mine", name="Mine", steering=spec)).pins
    revisions.publish(first, turned(first.sae, 1), numbers=revisions.numbers_after("r1", recycled=[1]))
    before, after = Catalogue([first]).resolve(spec, pins), Catalogue([revisions.open("r2")]).resolve(spec, pins)
    x = torch.randn(50, 64)
    assert after.edits["layers.1"].delta(x).equal(before.edits["layers.1"].delta(x))
    assert [a.gone for a in before.applied + after.applied] == [False, True]
    assert after.applied[0].feature.label == "bridges"
    assert after.applied[0].raw == before.applied[0].raw
    assert after.fingerprint != before.fingerprint == spec.fingerprint


def test_presets_features_are_those_served_in_the_units_they_were_saved_in(revisions, first, mine):
    sae = turned(first.sae, 1, 0.99)
    again = Feature(id="", index=1, dose=60.0, typical_max=40.0)
    revisions.publish(first, sae, [again])
    catalogue = Catalogue([revisions.open("r2")])
    resolved = catalogue.resolve(mine.steering, mine.pins)
    pushed = resolved.applied[0]
    assert (pushed.raw, pushed.strength, pushed.dose, pushed.gone) == (3.0, 0.5, 0.05, False)
    assert catalogue.resolve(one(1, 0.5), mine.pins).edits["layers.1"].push.equal(3.0 * sae.W_dec[1])
    assert catalogue.resolve(one(1, 0.5, unit="max"), mine.pins).applied[0].raw == 2.0
    assert catalogue.resolve(one(1, 0.5, unit="raw"), mine.pins).applied[0].raw == 0.5
    assert catalogue.resolve(one(1, 0.5)).applied[0].raw == 30.0


def test_equal_specs_that_mean_different_pushes_have_different_fingerprints(revisions, first, mine):
    revisions.publish(first, first.sae, [Feature(id="", index=1, dose=60.0)])
    catalogue = Catalogue([revisions.open("r2")])
    assert catalogue.resolve(mine.steering, mine.pins).fingerprint != catalogue.resolve(mine.steering).fingerprint
    same = Catalogue([first])
    assert same.resolve(mine.steering, mine.pins).fingerprint == same.resolve(mine.steering).fingerprint


def test_feature_that_a_rollback_took_away_steers_by_its_snapshot(revisions, first):
    revisions.publish(first, first.sae, numbers=revisions.numbers_after("r1", recycled=[1]))
    pins = revisions.open("r2").pinned(Preset(id="new", name="New", steering=one(48))).pins
    assert Catalogue([first]).resolve(one(48), pins).applied[0].gone
    with pytest.raises(UnknownFeature):
        Catalogue([first]).resolve(one(48))


def test_unmeasured_dose_is_pinned_to_the_norm_it_was_drawn_from(revisions, first, mine):
    pins = first.pinned(Preset(id="a", name="A", steering=one(5))).pins
    revisions.publish(first, first.sae, typical_norm=100.0)
    catalogue = Catalogue([revisions.open("r2")])
    assert catalogue.resolve(one(5), pins).applied[0].raw == 4.0
    assert catalogue.resolve(one(5)).applied[0].raw == 50.0


def test_shipped_presets_are_pinned_to_the_shipped_revision(revisions, first):
    revisions.publish(first, turned(first.sae, 1), numbers=revisions.numbers_after("r1", recycled=[1]))
    bridge = next(p for p in revisions.open("r2").presets if p.id == "bridge")
    assert [(s.id, s.revision) for s in bridge.snapshots] == [("small/1", "r1")]
    assert as_vector(bridge.snapshots[0].direction, 64).equal(first.sae.W_dec[1])


def test_preset_keeps_the_first_snapshots_and_drops_those_of_features_it_lost(revisions, first, mine):
    revisions.publish(first, turned(first.sae, 1))
    second = revisions.open("r2")
    wanted = SteeringSpec(features=(mine.steering.features[0], Intervention(id="small/9")))
    changed = second.pinned(Preset(id="mine", name="Mine", steering=wanted), kept=mine.pins)
    assert [(s.id, s.revision) for s in changed.snapshots] == [("small/1", "r1"), ("small/9", "r2")]


def test_a_bundle_without_rows_in_its_lines_is_read_as_before(base):
    opened = Bundle.open(base)
    assert all(f.row == f.index for f in opened.features)
    assert '"row"' not in opened.features[1].line()
    assert json.loads(opened.features[1].model_copy(update={"row": 7}).line())["row"] == 7
