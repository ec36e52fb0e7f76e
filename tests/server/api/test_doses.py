"""Doses over the API and the command line: measured, shipped with the bundle, capped, and eased where replies are
strained.
"""

import json
import shutil
import threading

import pytest
from typer.testing import CliRunner

from server.cli.main import app
from server.jobs.queue import JobQueue
from server.jobs.runner import Runner
from server.jobs.tasks.calibrate import CalibrateConfig, select_features
from server.settings import Settings
from steering.calibration import Calibration
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Screening
from steering.catalogue.revisions import Revisions
from steering.doses.screen import promise
from steering.errors import BadBundle, UnknownFeature
from tests.support import small_bundle
from tests.support.live_server import serving
from tests.support.waiting import until

ASK = [{"role": "user", "content": "hello there"}]
TEXT = "\n".join(["the bridge is red and long", "what should I do this weekend", "hello there, how are you"] * 20)


def say(http, steering, **rest):
    body = {"model": "small", "messages": ASK, "temperature": 0, "max_tokens": 80, "ignore_eos": True}
    return http.post("/v1/chat/completions", json={**body, "steering": steering, **rest}).json()


TOKENS = small_bundle.tokenizer()
HALVES = [i for i in range(TOKENS.vocab_size) if "\N{REPLACEMENT CHARACTER}" in TOKENS.decode([i])]
# At temperature 2 a model of random weights says what it finds very unlikely, so its replies strain. What is no text
# in any language, bytes that never become a character, is left out.
HOT = {"temperature": 2, "seed": 1, "logit_bias": {str(i): -100 for i in HALVES}}
STRONG = {"features": [{"id": "small/1", "strength": 4.0}], "guard": True}


def test_a_reply_that_strains_is_eased_and_says_where(http):
    reply = say(http, STRONG, **HOT)
    eased = reply["steering"]["eased"]
    assert [e["factor"] for e in eased] == [0.5, 0.25, 0.125]
    assert eased[0]["at"] >= 24
    assert "nats a token" in eased[0]["why"]
    assert reply["usage"]["completion_tokens"] == 80
    assert reply["choices"][0]["finish_reason"] == "length"


def test_until_it_is_eased_a_guarded_reply_is_the_plain_one_and_then_another(http):
    guarded, plain = say(http, STRONG, **HOT), say(http, {**STRONG, "guard": False}, **HOT)
    at = guarded["steering"]["eased"][0]["at"]
    short = say(http, {**STRONG, "guard": False}, max_tokens=at, **HOT)
    said = short["choices"][0]["message"]["content"]
    assert guarded["choices"][0]["message"]["content"].startswith(said)
    assert guarded["choices"][0]["message"]["content"] != plain["choices"][0]["message"]["content"]
    assert "eased" not in plain["steering"]


def test_a_guarded_stream_says_what_the_whole_reply_says(http):
    whole = say(http, STRONG, **HOT)
    body = {"model": "small", "messages": ASK, "max_tokens": 80, "ignore_eos": True, "stream": True, **HOT}
    lines = http.post("/v1/chat/completions", json={**body, "steering": STRONG}).text.split("\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
    assert text == whole["choices"][0]["message"]["content"]
    assert events[-1]["steering"]["eased"] == whole["steering"]["eased"]


def test_nobody_guards_an_unsteered_reply(http):
    assert "eased" not in say(http, {"features": [], "guard": True})["steering"]


def test_several_guarded_choices_are_eased_each_by_itself(http):
    reply = say(http, STRONG, n=2, **HOT)
    assert len({c["message"]["content"] for c in reply["choices"]}) == 2
    assert reply["steering"]["eased"]


def test_logprobs_of_a_guarded_reply_are_those_that_were_asked_for(http):
    reply = say(http, STRONG, logprobs=True, top_logprobs=2)
    assert len(reply["choices"][0]["logprobs"]["content"]) == 80
    assert say(http, STRONG)["choices"][0]["logprobs"] is None


def test_a_push_that_is_too_long_is_cut_if_that_is_asked_for_and_told(http):
    far = {"features": [{"id": "small/1", "strength": 9.0}]}
    refused = http.post("/v1/steering/validate", json={"model": "small", "steering": far})
    assert refused.status_code == 400
    assert "over_budget" in refused.json()["error"]["message"]
    cut = say(http, {**far, "over_budget": "cut"}, max_tokens=4)["steering"]
    assert cut["cut"] == pytest.approx(4.0 * 8.0 / (9 * 6.0), rel=0.01)
    assert cut["applied"][0]["raw"] == pytest.approx(32.0, rel=0.01)
    assert [w["code"] for w in cut["warnings"]].count("cut") == 1


def test_what_fits_is_not_cut(http):
    found = say(http, {"features": [{"id": "small/1", "strength": 0.5}], "over_budget": "cut"}, max_tokens=4)
    assert "cut" not in found["steering"]


def test_a_spec_tells_how_far_it_goes_in_all(http):
    one, two = (
        http.post("/v1/steering/validate", json={"steering": {"features": features}}).json()
        for features in ([{"id": "small/1", "strength": 0.6}], [{"id": "small/1", "strength": 2.0}])
    )
    assert one["load"] == pytest.approx(0.6, abs=1e-3)
    assert (one["predicted"], two["predicted"]) == ("ok", "strained")
    assert one["strained_from"] < two["load"] < one["broken_from"]
    assert one["cosines"] == [[1.0]]


@pytest.fixture
def own(tmp_path):
    """A bundle of one's own, with text, whose features were seen to fire."""
    bundle = small_bundle.write_bundle(tmp_path / "small")
    (tmp_path / "text.txt").write_text(TEXT)
    return bundle


def test_a_personas_features_are_warned_about_neither_by_its_name_nor_as_sliders_nor_as_a_copy(own, tmp_path):
    """No dose of the feature has an effect, alone; a shipped preset was measured as a whole."""
    import httpx

    file = own / "revisions/r1/features.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    push = {"raw": 6.0, "effect": 0.0, "kl": 0.1, "surprise": 0.1, "repetition": 0.0}
    rows[0]["calibration"] = {"knots": [(0, 0), (1, 6)], "points": [push], "works": False, "z": 0.0, "revision": "r1"}
    file.write_text("\n".join(map(json.dumps, rows)))
    alone = [{"id": "small/1", "strength": 0.8}]
    with serving(own, tmp_path / "data") as (address, _), httpx.Client(base_url=address) as http:
        http.put("/v1/presets/copy", json={"id": "copy", "name": "Copy", "steering": {"features": alone}})

        def warned(**steering):
            told = http.post("/v1/steering/validate", json={"steering": steering}).json()
            return [w["code"] for w in told["warnings"]]

        assert warned(preset="bridge") == warned(preset="copy") == warned(features=alone) == []
        assert warned(features=alone, scale=0.5) == []
        assert warned(features=[*alone, {"id": "small/2", "strength": 0.1}]) == ["no_effect"]


def test_calibrate_writes_into_the_bundle_and_presets_push_as_far_as_before(own, tmp_path):
    before = Bundle.open(own)
    result = CliRunner().invoke(app, ["calibrate", "--bundle", str(own), "--corpus", str(tmp_path / "text.txt"),
                                      "--prompts", "4"])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3 features measured" in result.output
    after = Bundle.open(own)
    measured = after.numbered[1]
    assert measured.calibration.revision == "r1"
    assert measured.calibration.points
    assert measured.calibration.method == "fluency"
    assert len(measured.calibration.points) >= 3
    assert not (own / "revisions/r1/calibrated.jsonl").exists()
    assert measured.dose == pytest.approx(measured.calibration.knots[-1][1], rel=1e-3)
    assert after.numbered[4].calibration is None
    for old, new in zip(before.presets, after.presets, strict=True):
        pushes = []
        for bundle, preset in ((before, old), (after, new)):
            from steering.catalogue.resolve import Catalogue

            pushes.append(Catalogue([bundle]).resolve(preset.steering).edits["layers.1"].push)
        assert float((pushes[0] - pushes[1]).norm()) < 2e-3 * float(pushes[0].norm())


def test_a_killed_calibration_goes_on_after_the_last_measured_feature(own):
    """The progress file has one feature of this revision, one of another, and a line that was cut off."""
    held = Bundle.open(own).numbered
    done = lambda n, revision: held[n].model_copy(  # noqa: E731
        update={"dose": 3.25, "calibration": Calibration(method="fluency", p=0.5, revision=revision)}
    )
    progress = own / "revisions/r1/calibrated.jsonl"
    progress.write_text(done(1, "r1").line() + done(3, "r0").line() + done(2, "r1").line()[:40])
    result = CliRunner().invoke(
        app, ["calibrate", "small/1", "small/2", "small/3", "--no-presets", "--prompts", "4", "--bundle", str(own)]
    )
    assert result.exit_code == 0, result.output
    after = Bundle.open(own).numbered
    assert after[1].dose == 3.25
    assert all(after[n].dose != 3.25 and after[n].calibration.points for n in (2, 3))
    assert not progress.exists()


def test_the_features_that_promise_most_by_their_screening_are_calibrated(own):
    result = CliRunner().invoke(
        app, ["calibrate", "--screen", "--best", "1", "--no-presets", "--prompts", "4", "--bundle", str(own)]
    )
    assert result.exit_code == 0, result.output
    assert "1 features measured" in result.output
    features = Bundle.open(own).features
    screened = [f for f in features if f.screening]
    assert {f.index for f in screened} == {f.index for f in features if f.typical_max > 0}
    assert all(f.screening.replies == 4 and 0 <= f.screening.fluent <= 1 for f in screened)
    assert all(("input-only" in f.kind) == (f.screening.shown <= 0) for f in screened)
    (measured,) = [f for f in features if f.calibration and f.calibration.method == "fluency"]
    assert measured.index == max(screened, key=promise).index
    assert not (own / "revisions/r1/screened.jsonl").exists()


def test_a_killed_screening_goes_on_after_the_last_screened_feature(own):
    bundle = Bundle.open(own)
    odd = Screening(push=0.36, shown=0.123, fluent=0.5, replies=4)
    progress = own / "revisions/r1/screened.jsonl"
    progress.write_text("\n" + bundle.numbered[1].model_copy(update={"screening": odd}).line() + '\n{"index":2,"la')
    result = CliRunner().invoke(
        app, ["calibrate", "small/2", "--screen", "--no-presets", "--prompts", "4", "--bundle", str(own)]
    )
    assert result.exit_code == 0, result.output
    after = Bundle.open(own).numbered
    assert after[1].screening == odd
    assert after[2].screening.shown != 0.123


def test_what_cannot_be_calibrated_is_named(own):
    with pytest.raises(BadBundle, match="--screen"):
        select_features(Bundle.open(own), CalibrateConfig(best=3, presets=False), [])
    bundle = Bundle.open(own)
    with pytest.raises(UnknownFeature, match="small/99"):
        select_features(bundle, CalibrateConfig(features=("small/99",)), [])
    with pytest.raises(BadBundle, match="nothing to calibrate"):
        select_features(bundle, CalibrateConfig(features=("small/7",)), [])
    result = CliRunner().invoke(app, ["calibrate", "small/99", "--bundle", str(own)])
    assert result.exit_code == 1
    assert "no feature 'small/99'" in result.output


def test_a_job_measures_and_the_server_follows(own, tmp_path):
    import httpx

    data = tmp_path / "data"
    data.mkdir()
    corpus = (tmp_path / "text.txt",)
    with serving(own, data, corpus=corpus) as (address, _), httpx.Client(base_url=address) as http:
        http.put("/v1/presets/mine", json={"id": "mine", "name": "Mine", "steering": {"features": [{"id": "small/1"}]}})
        order = {"type": "calibrate", "config": {"features": ["small/1", "small/3"], "prompts": 4}}
        job = http.post("/v1/jobs", json=order).json()
        stop = threading.Event()
        runner = threading.Thread(
            target=Runner(JobQueue(Settings(bundle=own, data_dir=data, corpus=corpus))).run, args=(stop,)
        )
        runner.start()
        until(lambda: http.get(f"/v1/jobs/{job['id']}").json()["state"] in ("succeeded", "failed"))
        ended = http.get(f"/v1/jobs/{job['id']}").json()
        stop.set()
        runner.join(120)
        assert ended["state"] == "succeeded", ended
        assert ended["result"]["revision"] == "r2"
        until(lambda: http.get("/health").json()["revision"] == "r2")
        feature = http.get("/v1/features/small/1").json()
        assert feature["calibration"]["revision"] == "r1"  # the SAE on which it was measured
        assert feature["dose"] != 6.0
        mine = http.get("/v1/presets/mine").json()
        assert mine["calibration"]["points"]
        # saved in the old units, it pushes as far as it did
        told = http.post("/v1/steering/validate", json={"model": "small@mine"}).json()
        assert told["applied"][0]["raw"] == pytest.approx(6.0)
        revisions = Revisions(own, data / "revisions" / "small")
        assert revisions.open("r2").sae.W_dec.equal(revisions.open("r1").sae.W_dec)


def test_nobody_brings_measurements_of_their_own(http):
    body = {"id": "sly", "name": "Sly", "steering": {"features": [{"id": "small/1"}]}}
    spot = {"low": 0, "high": 99, "method": "invented"}
    saved = http.put("/v1/presets/sly", json={**body, "sweet_spot": spot}).json()
    assert saved["sweet_spot"] is None
    http.delete("/v1/presets/sly")


def test_a_damaged_copy_is_not_half_written(own, tmp_path, monkeypatch):
    """Killed while it writes, a bundle is as it was."""
    copy = shutil.copytree(own, tmp_path / "copy")
    monkeypatch.setattr("steering.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    result = CliRunner().invoke(app, ["calibrate", "--bundle", str(copy), "--corpus", str(tmp_path / "text.txt"),
                                      "--prompts", "4"])  # fmt: skip
    assert result.exit_code == 1
    assert Bundle.open(copy).numbered[1].dose == 6.0
