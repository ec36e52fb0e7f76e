"""SAE updates: published or quarantined; after a kill at any time, every revision is complete and the job resumes."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from server.jobs.queue import JobQueue
from server.jobs.tasks.sae_update import SaeUpdateConfig, run
from server.jobs.worker import JobContext
from server.sae.served_revision import open_revisions, revision_setting
from server.schemas.jobs import Job
from steering.errors import SteeringError
from steering.train.trainer import Trainer
from steering.update.gates import Gate
from tests.support.paths import ROOT
from tests.support.trained_sae import WORDS, chats, live, place, settings, stored

__all__ = ["place"]
KILLS = 8


def work(place, job_id="job_1", **config):
    order = SaeUpdateConfig(**{"text": (str(place / "new.jsonl"),), "steps": 100, "append": 8, "live": False, **config})
    found = JobContext(
        Job(id=job_id, type="sae_update", config=order.model_dump(mode="json"), created=0), JobQueue(settings(place)), 0
    )
    found.folder.mkdir(exist_ok=True)
    return found


@pytest.fixture
def lenient(monkeypatch):
    """A model of random weights has no quality to keep: those gates are let pass, all others are real."""
    real = Gate.passed.fget
    quality = {"unexplained_old", "gain_mixed", "loss_rise", "bias", "dead", "identity", "l0"}
    monkeypatch.setattr(Gate, "passed", property(lambda g: g.name in quality or real(g)))


def test_an_update_is_published_served_and_known(place, lenient):
    result = run(work(place))
    assert result["published"], result
    revisions = open_revisions(settings(place))
    assert revisions.names() == ["r1", "r2"]
    manifest = revisions.manifest("r2")
    assert manifest.parent == "r1"
    assert manifest.report["job"] == "job_1"
    assert {"unexplained_old", "identity", "pinned_birth", "export"} <= {g["name"] for g in manifest.report["gates"]}
    after = revisions.open("r2")
    assert after.sae.d_sae == 104
    numbers = [f.index for f in after.features]
    assert len({*numbers}) == 104
    assert numbers[-1] == max(numbers) == manifest.next_number - 1  # a row that never fired was given to a new feature
    assert any(f.density > 0 and f.examples for f in after.features[96:])
    assert stored(place, lambda s: s.setting(revision_setting("made"))) == "r2"
    assert not (place / "data" / "jobs" / "job_1" / "new").exists()


def test_an_update_leaves_its_moments_to_the_next_one(place, lenient, monkeypatch):
    begun = []
    warm = Trainer.restore_moments
    monkeypatch.setattr(
        Trainer, "restore_moments", lambda run, moments, new: (begun.append(moments), warm(run, moments, new=new))
    )
    run(work(place))
    assert not begun
    kept = open_revisions(settings(place)).moments("r2")
    assert len(kept["W_dec.exp_avg"]) == 104
    assert kept["encoder.exp_avg_sq"].max() > 0
    assert run(work(place, job_id="job_2"))["revision"] == "r3"
    assert begun[0]["W_dec.exp_avg"].equal(kept["W_dec.exp_avg"])


def test_what_fails_a_gate_is_kept_aside_with_the_reason(place, monkeypatch):
    real = Gate.passed.fget
    monkeypatch.setattr(Gate, "passed", property(lambda g: g.name != "identity" and (real(g) or True)))
    result = run(work(place))
    assert not result["published"]
    assert result["report"]["failed"]
    aside = place / "data" / "revisions" / "made" / "rejected" / result["rejected"]
    assert json.loads((aside / "report.json").read_text())["passed"] is False
    assert open_revisions(settings(place)).names() == ["r1"]
    assert stored(place, lambda s: s.setting(revision_setting("made"))) is None


def test_nothing_new_is_an_error_that_says_so(place):
    with pytest.raises(SteeringError, match="no new text to train on"):
        run(work(place, text=()))
    (place / "new.jsonl").write_text((place / "new.jsonl").read_text()[:400].rsplit("\n", 1)[0] + "\n")
    with pytest.raises(SteeringError, match="too little text"):
        run(work(place))


def test_killed_at_eight_moments_every_revision_is_whole(place):
    """A gate may refuse the candidate of so small a model; either way the job ends clearly and leaves no half.

    `bench.update.kills` does it twenty times to a real server.
    """
    draw, kills, ends = random.Random(5), 0, 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began, longest = time.monotonic(), 4.0
    while kills < KILLS or not ends:
        assert time.monotonic() - began < 3000
        job = f"job_{ends}"
        words = [sys.executable, str(ROOT / "tests/support/updates.py"), *map(str, (place / "data", place / "made"))]
        process = subprocess.Popen(
            [*words, str(place / "new.jsonl"), job],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdout.readline() == "begun\n"
        begun = time.monotonic()
        try:
            out, errors = process.communicate(timeout=draw.uniform(0.02, longest) if kills < KILLS else 600)
            assert process.returncode == 0, errors
            assert "published" in json.loads(out.splitlines()[-1])
            ends, longest = ends + 1, max(0.5, time.monotonic() - begun)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        revisions = open_revisions(settings(place))
        for name in revisions.names():
            revisions.open(name)
        served = stored(place, lambda s: s.setting(revision_setting("made")))
        assert served is None or served in revisions.names()
    assert kills == KILLS


def test_live_text_expires_from_the_job_as_well(place, lenient):
    (place / "data").mkdir()
    live(place, chats(place / "x.jsonl", [*WORDS, "volcano"], 600, seed=3))
    done = work(place, text=(), live=True)
    result = run(done)
    assert "report" in result
    left = [p for p in done.folder.rglob("*") if p.is_file()]
    assert {p.name for p in left} <= {"parent", "events.jsonl", "progress.json", "cfg.json", "sae_weights.safetensors"}
