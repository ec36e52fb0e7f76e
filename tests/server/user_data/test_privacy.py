"""Privacy: nothing is stored without consent, stored text is encrypted, and erasure includes the disk."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import httpx
import pytest

from server.jobs.queue import GIVEN_FILE, JobQueue
from server.settings import Settings
from server.store.encryption import FILE, MARK, TextEncryption, Unreadable, pseudonym
from server.store.models import LiveText
from tests.support import small_bundle
from tests.support.waiting import until

ADMIN = "the-first-key-of-this-server-that-nobody-guesses"
STEERING = {"features": [{"id": "small/1", "strength": 0.4}]}


@pytest.fixture
def server(tmp_path):
    """A real server in its own process, its log beside its data."""
    bundle, data = small_bundle.write_bundle(tmp_path / "bundle"), tmp_path / "data"
    data.mkdir()
    words = ["serve", "--bundle", bundle, "--data-dir", data, "--port", "0", "--no-browser", "--no-trainer"]
    environment = {**os.environ, "TILLER_ADMIN_KEY": ADMIN, "TILLER_SHARES": "true"}
    with (data / "server.log").open("wb") as log:
        child = subprocess.Popen([sys.executable, "-m", "server", *map(str, words)], stdout=log, stderr=log, env=environment)  # fmt: skip
        try:
            yield address_of(data / "server.log"), data
        finally:
            child.terminate()
            child.wait(120)


def address_of(log):
    found = []

    def look():
        found[:] = [w.rstrip("/") for w in log.read_text(errors="replace").split() if w.startswith("http://127.0.0.1:")]
        return bool(found)

    until(look)
    return found[0].removesuffix("/v1")


def on_disk(folder, what):
    """By another process: who opens a database's file in between takes its locks away."""
    plain = {**os.environ, "LC_ALL": "C"}  # bytes, whatever they would be as text
    return subprocess.run(["grep", "-raqiF", what, folder], env=plain).returncode == 0


def person(address, name):
    admin = {"Authorization": f"Bearer {ADMIN}"}
    secret = httpx.post(f"{address}/v1/keys", json={"name": name, "role": "researcher"}, headers=admin).json()["secret"]
    return httpx.Client(base_url=address, headers={"Authorization": f"Bearer {secret}"})


def chat(http, words, **more):
    body = {"model": "small", "messages": [{"role": "user", "content": words}], "max_tokens": 3, **more}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text


def test_canaries_are_kept_sealed_or_not_at_all_and_erased_without_a_trace(server):
    address, data = server
    with person(address, "ada") as ada, person(address, "bob") as bob:
        kept_as_asked(ada, data)
        shared = give(ada, bob, data)
        gone = ada.delete("/v1/me").json()["deleted"]
        assert gone == {"consents": 1, "texts": 1, "votes": 1, "vectors": 1, "presets": 1, "shares": 1, "jobs": 1}
        forgotten(ada, bob, data, shared)


def kept_as_asked(ada, data):
    chat(ada, "canary-typed", steering=STEERING)
    ada.post("/v1/analyze", json={"text": "canary-analysed"})
    ada.get("/v1/features", params={"q": "canary-searched"})
    ada.post("/v1/chat/completions", json={"model": "canary-wrong"})
    for name in ("typed", "analysed", "searched"):
        assert not on_disk(data, f"canary-{name}"), name


def give(ada, bob, data):
    """Everything that is kept when somebody asks for it; the share's id."""
    ada.put("/v1/training/consent", json={"consent": True})
    chat(ada, "canary-given")
    until(lambda: ada.get("/v1/training/consent").json()["texts"] == 1)
    chat(ada, "canary-of-a-customer", user="canary-customer")
    assert not on_disk(data, "canary-given")  # sealed
    assert on_disk(data, MARK)
    about = {"id": "canary-preset", "name": "canary-named", "steering": STEERING, "system_prompt": "canary-system"}
    assert ada.post("/v1/presets", json=about).status_code == 201
    order = {"feature": "small/1", "strengths": [0.5], "prompts": ["canary-swept"], "max_tokens": 2}
    assert ada.post("/v1/steering/sweep", json=order).status_code == 202
    shared = ada.post("/v1/shares", json={"model": "small", "title": "canary-shared"}).json()["id"]
    ada.post("/v1/vectors", json={"name": "canary-vector", "a": ["What a day!", "Yes."], "b": ["Oh no.", "Not."]})
    ada.post("/v1/feedback", json={"kind": "thumb", "up": True, "steering": STEERING})
    bob.post("/v1/presets", json={**about, "id": "canarybird", "name": "bobs"})
    for name in ("preset", "swept", "shared", "vector"):
        assert on_disk(data, f"canary-{name}"), name

    return shared


def forgotten(ada, bob, data, shared):
    for name in ("typed", "given", "customer", "preset", "named", "swept", "shared", "vector"):
        assert not on_disk(data, f"canary-{name}"), name
    assert on_disk(data, "canarybird")
    assert bob.get(f"/v1/shares/{shared}").status_code == 404
    assert "canary" not in bob.get("/metrics").text.lower()
    assert "canary-" not in bob.get("/v1/features?limit=100").text
    assert ada.get("/v1/training/consent").json() == {**ada.get("/v1/training/consent").json(), "consent": False, "texts": 0}  # fmt: skip
    assert set(ada.delete("/v1/me").json()["deleted"].values()) == {0}


def test_a_job_that_learns_from_somebody_ends_when_they_take_it_back(tmp_path):
    settings = Settings(data_dir=tmp_path, job_kinds=("count=tests.support.fake_jobs:JOB",))
    jobs = JobQueue(settings)
    learning, other = jobs.submit("count", {}), jobs.submit("count", {})
    for job, names in ((learning, [pseudonym("ada"), pseudonym("bob")]), (other, [pseudonym("bob")])):
        (jobs.folder / job.id / GIVEN_FILE).write_text(json.dumps({"names": names, "sealed": "…"}))
    assert jobs.erase_given([pseudonym("ada")], theirs=lambda _: False) == 0
    assert (jobs.get(learning.id).state, jobs.get(other.id).state) == ("cancelled", "queued")
    assert not (jobs.folder / learning.id / GIVEN_FILE).exists()
    assert (jobs.folder / other.id / GIVEN_FILE).exists()


def test_a_seal_opens_only_with_its_key_and_under_its_name():
    seal = TextEncryption("one key that is long enough for this")
    kept = seal.encrypt('["ä"]', "ada")
    assert kept == seal.encrypt('["ä"]', "ada")  # nothing is kept twice
    assert kept != seal.encrypt('["ä"]', "bob")
    assert seal.decrypt(kept, "ada") == '["ä"]'
    assert seal.decrypt('["from before"]', "ada") == '["from before"]'
    flipped = kept[:-6] + ("A" if kept[-6] != "A" else "B") + kept[-5:]
    for sealed, whose, by in ((kept, "bob", seal), (kept, "ada", TextEncryption("x" * 40)), (flipped, "ada", seal), (MARK + "?", "ada", seal)):  # fmt: skip
        with pytest.raises(Unreadable):
            by.decrypt(sealed, whose)


def test_what_cannot_be_read_is_left_out_and_the_rest_is_learnt_from():
    seal = TextEncryption("one key that is long enough for this")
    texts = [
        LiveText("ada", seal.encrypt("[1]", "ada"), 1.0),
        LiveText("bob", TextEncryption("y" * 40).encrypt("[2]", "bob"), 2.0),
    ]
    assert seal.opened(texts) == [replace(texts[0], messages="[1]")]


def test_a_key_is_made_once_for_its_owners_eyes_and_may_be_named_instead(tmp_path):
    settings = Settings(data_dir=tmp_path)
    assert TextEncryption.from_settings(settings) == TextEncryption.from_settings(settings)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    named = Settings(data_dir=tmp_path, text_key="a key of one's own that is long enough")
    assert TextEncryption.from_settings(named) != TextEncryption.from_settings(settings)
    assert "own" not in repr(TextEncryption.from_settings(named))
    shutil.rmtree(tmp_path)
