"""The trainer updates, publishes and takes back; whenever it is killed, every revision is whole and the job goes on."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.jobs import Job, Jobs, Work
from server.settings import Settings
from server.store.sqlite import SqliteStore
from server.swap import revisions_of, setting_of
from server.trainer import UpdateOrder, Watch, update
from steering.errors import SteeringError
from steering.gates import Gate
from steering.train.training import Training
from tests import small

ROOT = Path(__file__).parents[2]
KILLS = 8
WORDS = [
    "the",
    "bridge",
    "is",
    "red",
    "and",
    "long",
    "what",
    "should",
    "I",
    "do",
    "this",
    "weekend",
    "hello",
    "there",
    "how",
    "are",
    "you",
    "sea",
    "star",
    "coffee",
]


def chats(file, words, n, seed=0):
    draw = random.Random(seed)
    say = lambda k: " ".join(draw.choices(words, k=k))  # noqa: E731
    rows = [[{"role": "user", "content": say(8)}, {"role": "assistant", "content": say(14)}] for _ in range(n)]
    file.write_text("".join(json.dumps({"messages": m}) + "\n" for m in rows))
    return rows


@pytest.fixture
def place(tmp_path):
    """A bundle whose SAE was trained a little, old text, new text."""
    from typer.testing import CliRunner

    from server.cli import app

    raw = small.write_bundle(tmp_path / "raw" / "small")
    chats(tmp_path / "old.jsonl", WORDS, 900)
    chats(tmp_path / "new.jsonl", [*WORDS[:6], "volcano", "lava", "ash", "crater"], 700, seed=1)
    words = [
        "sae",
        "train",
        "--bundle",
        raw,
        "--out",
        tmp_path / "made",
        "--text",
        tmp_path / "old.jsonl",
        "--features",
        96,
    ]
    words += ["--k", 6, "--rows", 256, "--buffer", 4000, "--passes", 3, "--checkpoint", 50]
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 0, done.output
    return tmp_path


def settings(place, **more):
    return Settings(data_dir=place / "data", bundle=place / "made", corpus=(place / "old.jsonl",), **more)


def stored(place, act):
    async def once():
        store = SqliteStore(place / "data" / "tiller.db")
        try:
            return await act(store)
        finally:
            await store.close()

    return asyncio.run(once())


def work(place, job_id="job_1", **config):
    order = UpdateOrder(**{"text": (str(place / "new.jsonl"),), "steps": 100, "append": 8, "live": False, **config})
    found = Work(
        Job(id=job_id, type="sae_update", config=order.model_dump(mode="json"), created=0), Jobs(settings(place)), 0
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
    result = update(work(place))
    assert result["published"], result
    revisions = revisions_of(settings(place))
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
    assert stored(place, lambda s: s.setting(setting_of("made"))) == "r2"
    assert not (place / "data" / "jobs" / "job_1" / "new").exists()


def test_an_update_leaves_its_moments_to_the_next_one(place, lenient, monkeypatch):
    begun = []
    warm = Training.warm
    monkeypatch.setattr(
        Training, "warm", lambda run, moments, new: (begun.append(moments), warm(run, moments, new=new))
    )
    update(work(place))
    assert not begun
    kept = revisions_of(settings(place)).moments("r2")
    assert len(kept["W_dec.exp_avg"]) == 104
    assert kept["encoder.exp_avg_sq"].max() > 0
    assert update(work(place, job_id="job_2"))["revision"] == "r3"
    assert begun[0]["W_dec.exp_avg"].equal(kept["W_dec.exp_avg"])


def test_what_fails_a_gate_is_kept_aside_with_the_reason(place, monkeypatch):
    real = Gate.passed.fget
    monkeypatch.setattr(Gate, "passed", property(lambda g: g.name != "identity" and (real(g) or True)))
    result = update(work(place))
    assert not result["published"]
    assert result["report"]["failed"]
    aside = place / "data" / "revisions" / "made" / "rejected" / result["rejected"]
    assert json.loads((aside / "report.json").read_text())["passed"] is False
    assert revisions_of(settings(place)).names() == ["r1"]
    assert stored(place, lambda s: s.setting(setting_of("made"))) is None


def test_nothing_new_is_an_error_that_says_so(place):
    with pytest.raises(SteeringError, match="nothing new to learn from"):
        update(work(place, text=()))
    (place / "new.jsonl").write_text((place / "new.jsonl").read_text()[:400].rsplit("\n", 1)[0] + "\n")
    with pytest.raises(SteeringError, match="too little text"):
        update(work(place))


def test_killed_at_eight_moments_every_revision_is_whole(place):
    """A gate may refuse the candidate of so small a model; either way the job ends clearly and leaves no half.

    `bench.kills` does it twenty times to a real server.
    """
    draw, kills, ends = random.Random(5), 0, 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began, longest = time.monotonic(), 4.0
    while kills < KILLS or not ends:
        assert time.monotonic() - began < 400
        job = f"job_{ends}"
        words = [sys.executable, str(ROOT / "tests/server/updating.py"), *map(str, (place / "data", place / "made"))]
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
            out, errors = process.communicate(timeout=draw.uniform(0.02, longest) if kills < KILLS else 120)
            assert process.returncode == 0, errors
            assert "published" in json.loads(out.splitlines()[-1])
            ends, longest = ends + 1, max(0.5, time.monotonic() - begun)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        revisions = revisions_of(settings(place))
        for name in revisions.names():
            revisions.open(name)
        served = stored(place, lambda s: s.setting(setting_of("made")))
        assert served is None or served in revisions.names()
    assert kills == KILLS


def live(place, rows, users=25):
    async def give(store):
        for i in range(users):
            await store.set_consent(f"u{i}", True)
        for i, messages in enumerate(rows):
            await store.keep_text(f"u{i % users}", json.dumps(messages), most=100, seconds=999)

    stored(place, give)


def test_live_text_that_is_unlike_the_corpus_begins_an_update(place):
    (place / "data").mkdir()
    asked = []
    watch = Watch(settings(place), lambda type, config, key: asked.append((type, key)))
    assert watch.look() == []
    assert asked == []
    live(place, chats(place / "x.jsonl", ["volcano", "zzz", "!!!", "1234", "qqq"], 250, seed=3))
    found = watch.look()
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
    assert Watch(settings(place), lambda *a: asked.append(a)).look() == []
    assert asked == []


def test_a_revision_that_does_worse_on_live_text_is_taken_back(place):
    (place / "data").mkdir()
    revisions = revisions_of(settings(place))
    parent = revisions.open("r1")
    from dataclasses import replace

    worse = replace(parent.sae, b_dec=parent.sae.b_dec + 0.3 * parent.sae.b_dec.std() + 0.5)
    revisions.publish(parent, worse)
    stored(place, lambda s: s.set_setting(setting_of("made"), "r2"))
    live(place, chats(place / "x.jsonl", WORDS, 250, seed=3))
    assert "rolled back" in Watch(settings(place), lambda *a: None).look()
    assert stored(place, lambda s: s.setting(setting_of("made"))) == "r1"


def test_live_text_expires_from_the_job_as_well(place, lenient):
    (place / "data").mkdir()
    live(place, chats(place / "x.jsonl", [*WORDS, "volcano"], 600, seed=3))
    done = work(place, text=(), live=True)
    result = update(done)
    assert "report" in result
    left = [p for p in done.folder.rglob("*") if p.is_file()]
    assert {p.name for p in left} <= {"parent", "events.jsonl", "progress.json", "cfg.json", "sae_weights.safetensors"}
