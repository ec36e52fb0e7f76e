"""Drift watch: starts an update when text has drifted or an interval is over, and rolls back a worse revision."""

import json
import time
from dataclasses import replace

from server.sae.drift_watch import DriftWatch
from server.sae.served_revision import open_revisions, revision_setting
from tests.support.trained_sae import WORDS, chats, live, place, settings, stored

__all__ = ["place"]


def test_live_text_that_is_unlike_the_corpus_begins_an_update(place):
    (place / "data").mkdir()
    asked = []
    lookout = DriftWatch(settings(place), lambda type, config, key: asked.append((type, key)))
    assert lookout.check() == []
    assert asked == []
    live(place, chats(place / "x.jsonl", ["volcano", "zzz", "!!!", "1234", "qqq"], 250, seed=3))
    found = lookout.check()
    assert found
    assert all(alarm.startswith("live: ") for alarm in found)
    assert asked[0][0] == "sae_update"
    assert asked[0][1].startswith("drift:r1:")
    rows = [json.loads(line) for line in (place / "data/trainer/made/drift.jsonl").read_text().splitlines()]
    assert rows[-1]["alarms"] == found
    assert rows[-1]["did"] == "update"
    assert rows[-1]["live"]["explained_variance"] < rows[-1]["corpus"]["explained_variance"]


def test_live_text_like_the_corpus_begins_nothing(place):
    (place / "data").mkdir()
    asked = []
    live(place, chats(place / "x.jsonl", WORDS, 250, seed=3))
    assert DriftWatch(settings(place), lambda *a: asked.append(a)).check() == []
    assert asked == []


def test_a_revision_that_does_worse_on_live_text_is_taken_back(place):
    (place / "data").mkdir()
    revisions = open_revisions(settings(place))
    parent = revisions.open("r1")
    worse = replace(parent.sae, b_dec=parent.sae.b_dec + 0.3 * parent.sae.b_dec.std() + 0.5)
    revisions.publish(parent, worse)
    stored(place, lambda s: s.set_setting(revision_setting("made"), "r2"))
    live(place, chats(place / "x.jsonl", WORDS, 250, seed=3))
    assert "rolled back" in DriftWatch(settings(place), lambda *a: None).check()
    assert stored(place, lambda s: s.setting(revision_setting("made"))) == "r1"


def test_an_update_is_due_by_the_clock_though_each_look_is_another_process(place):
    (place / "data").mkdir()
    asked, hourly = [], settings(place, update_hours=1)
    live(place, chats(place / "x.jsonl", WORDS, 250, seed=3))
    submit = lambda type, config, key: asked.append(key)  # noqa: E731
    for _ in range(2):
        DriftWatch(hourly, submit).check()
    assert asked == []
    file = place / "data/trainer/made/drift.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"at": time.time() - 3700}) + "\n" for row in rows))
    for _ in range(2):
        DriftWatch(hourly, submit).check()
    assert [key.rpartition(":")[0] for key in asked] == ["schedule:r1"]
