"""Revision switch without a restart: running replies keep their revision, presets keep their meaning."""

import asyncio
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest
import torch
from typer.testing import CliRunner

from server.auth.audit_log import AuditLog
from server.cli.main import app
from server.sae.served_revision import revision_setting
from server.store.sqlite.store import SqliteStore
from steering.catalogue.feature import Feature
from steering.catalogue.revisions import Revisions
from steering.spec import Preset
from tests.support import small_bundle
from tests.support.live_server import serving
from tests.support.waiting import eventually, until

ASKED = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def folder(tmp_path):
    return small_bundle.write_bundle(tmp_path / "small")


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def revisions(folder, data):
    return Revisions(folder, data / "revisions/small")


@pytest.fixture
def server(folder, data):
    with serving(folder, data, live=16) as (address, _), httpx.Client(base_url=address, timeout=30) as http:
        yield http


def other(sae, seed=1):
    """An SAE whose directions are all others."""
    g = torch.Generator().manual_seed(seed)
    return replace(sae, W_dec=torch.nn.functional.normalize(torch.randn(sae.W_dec.shape, generator=g), dim=1))


def published(revisions, *, parent="r1", recycled=(), features=(), seed=1):
    """A child whose directions are all others; its name."""
    before = revisions.open(parent)
    numbers = revisions.numbers_after(parent, recycled=recycled)
    figures = {"explained_variance": 0.9}
    return revisions.publish(before, other(before.sae, seed), features, numbers=numbers, figures=figures).revision


def reply(http, **body):
    body = {"model": "small", "messages": HELLO, **ASKED} | body
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return told["choices"][0]["message"]["content"], told["steering"]


def tell_the_store(data, revision):
    async def tell():
        store = SqliteStore(data / "tiller.db")
        await store.set_setting(revision_setting("small"), revision)
        await store.close()

    asyncio.run(tell())


def activate(http, revision):
    answer = http.post(f"/v1/saes/{revision}/activate")
    assert answer.status_code == 200, answer.text
    return answer.json()


STEERED = {"steering": {"features": [{"id": "small/1", "strength": 1.0}]}}


def test_activated_revision_serves_new_requests_and_rollback_the_old_one(server, revisions):
    before, echo = reply(server, **STEERED)
    assert echo["revision"] == "r1"
    published(revisions)
    assert activate(server, "r2") == {"previous": "r1", "active": "r2"}
    after, echo = reply(server, **STEERED)
    assert (echo["revision"], server.get("/health").json()["revision"]) == ("r2", "r2")
    assert after != before
    assert server.post("/v1/saes/rollback").json() == {"previous": "r2", "active": "r1"}
    assert reply(server, **STEERED)[0] == before
    answer = server.post("/v1/saes/rollback")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_parent")


def test_revisions_are_listed_with_parents_figures_and_which_is_active(server, revisions):
    published(revisions, recycled=[1])
    activate(server, "r2")
    listed = server.get("/v1/saes").json()["data"]
    assert [(s["id"], s["parent"], s["active"]) for s in listed] == [("r1", None, False), ("r2", "r1", True)]
    one = server.get("/v1/saes/r2").json()
    assert one["figures"] == {"explained_variance": 0.9}
    assert one["retired"] == [{"id": "small/1", "revision": "r2", "label": "bridges"}]
    assert set(one["sha256"]) == {"cfg.json", "features.jsonl", "sae_weights.safetensors"}


def test_unknown_revision_is_404_with_those_there_are(server):
    for answer in (server.get("/v1/saes/r9"), server.post("/v1/saes/r9/activate")):
        assert answer.status_code == 404
        assert "no revision 'r9'; there are r1" in answer.json()["error"]["message"]


def test_what_the_store_names_is_served_within_a_second_or_so(server, revisions, data):
    published(revisions)
    tell_the_store(data, "r2")
    until(lambda: server.get("/health").json()["revision"] == "r2")
    assert server.get("/health").json()["swap_error"] is None


@pytest.mark.parametrize("damage", ["weights", "manifest", "width"])
def test_bad_revision_is_refused_and_the_old_one_goes_on(server, revisions, folder, data, damage):
    before, _ = reply(server, **STEERED)
    published(revisions)
    if damage == "weights":
        (revisions.live / "r2/sae_weights.safetensors").write_bytes(b"x" * 100)
    elif damage == "manifest":
        (revisions.live / "r2/manifest.json").write_text("{")
    else:
        narrowed(revisions.live / "r2")
    answer = server.post("/v1/saes/r2/activate")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "revision_refused")
    assert ("width 32" if damage == "width" else "r2") in answer.json()["error"]["message"]
    assert [s["id"] for s in server.get("/v1/saes").json()["data"]] == ["r1", "r2"]
    tell_the_store(data, "r2")
    until(lambda: server.get("/health").json()["swap_error"])
    assert "'r2' is not served" in server.get("/health").json()["swap_error"]
    after, echo = reply(server, **STEERED)
    assert (after, echo["revision"]) == (before, "r1")
    activate(server, "r1")
    assert server.get("/health").json()["swap_error"] is None


def test_files_that_come_while_a_revision_is_opened_are_looked_at_again(folder, data, revisions):
    class ComeJustThen(Revisions):
        def open(self, revision, *, gently=False):
            try:
                return super().open(revision, gently=gently)
            finally:
                if aside.exists():
                    aside.rename(self.live / revision)

    published(revisions)
    aside = (revisions.live / "r2").rename(data / "aside")
    with serving(folder, data) as (address, app), httpx.Client(base_url=address, timeout=30) as http:
        app.state.served_model = replace(app.state.served_model, revisions=ComeJustThen(revisions.base, revisions.live))
        tell_the_store(data, "r2")
        until(lambda: http.get("/health").json()["revision"] == "r2")
        assert http.get("/health").json()["swap_error"] is None


def narrowed(folder):
    """Replace a revision's SAE by one for a narrower model, with the digests that belong to it."""
    rows = torch.nn.functional.normalize(small_bundle.sae().W_dec[:, :32], dim=1)
    narrow = replace(small_bundle.sae(), W_dec=rows, W_enc=rows.T.contiguous(), b_dec=torch.zeros(32))
    narrow.save(folder, hook="layers.1", model="small")
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["sha256"]:
        manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_after_a_restart_the_same_revision_is_served(folder, data, revisions):
    published(revisions)
    with serving(folder, data) as (address, _), httpx.Client(base_url=address, timeout=30) as http:
        activate(http, "r2")
        first = reply(http, **STEERED)
    with serving(folder, data) as (address, _), httpx.Client(base_url=address, timeout=30) as http:
        assert http.get("/health").json()["revision"] == "r2"
        assert reply(http, **STEERED) == first


def test_after_a_restart_a_damaged_revision_gives_way_to_its_parent(folder, data, revisions):
    published(revisions)
    published(revisions, parent="r2", seed=2)
    with serving(folder, data) as (address, _), httpx.Client(base_url=address, timeout=30) as http:
        activate(http, "r3")
    (revisions.live / "r3/features.jsonl").write_text("damaged")
    with serving(folder, data) as (address, _), httpx.Client(base_url=address, timeout=30) as http:
        assert http.get("/health").json()["revision"] == "r2"
        until(lambda: "features.jsonl" in (http.get("/health").json()["swap_error"] or ""))


MINE = {
    "id": "mine",
    "name": "Mine",
    "steering": {"features": [{"id": "small/1", "strength": 0.8}, {"id": "small/2", "strength": 0.5, "mode": "clamp"}]},
}


def test_preset_with_a_retired_feature_says_what_it_said(server, revisions):
    assert server.post("/v1/presets", json=MINE).status_code == 201
    before, _ = reply(server, model="small@mine")
    shipped, _ = reply(server, model="small@bridge")
    features = [Feature(id="", index=3, typical_max=99.0)]
    published(revisions, recycled=[1, 2], features=features)
    activate(server, "r2")
    after, echo = reply(server, model="small@mine")
    assert after == before
    assert [w["code"] for w in echo["warnings"]] == ["retired", "retired"]
    assert [a["retired"] for a in echo["applied"]] == [True, True]
    assert reply(server, model="small@bridge")[0] == shipped
    answer = server.post("/v1/chat/completions", json={"model": "small", "messages": HELLO, **STEERED})
    assert answer.status_code == 400
    assert "'small/1' (bridges) was retired in revision 'r2'" in answer.json()["error"]["message"]
    assert server.get("/v1/features/small/1").status_code == 404
    assert server.get("/v1/features/small/48").json()["row"] == 1
    weaker = {"preset": "mine", "features": [{"id": "small/1", "strength": 0.1}]}
    assert reply(server, steering=weaker)[1]["applied"][0]["raw"] == 0.6


def test_preset_with_a_retired_feature_can_still_be_changed(server, revisions):
    server.post("/v1/presets", json=MINE)
    published(revisions, recycled=[1])
    activate(server, "r2")
    assert server.put("/v1/presets/mine", json={**MINE, "name": "Ours"}).status_code == 200
    held = server.get("/v1/presets/mine", params={"snapshots": True}).json()["snapshots"]
    assert [(s["id"], s["revision"]) for s in held] == [("small/1", "r1"), ("small/2", "r1")]
    assert server.post("/v1/presets", json={**MINE, "id": "new"}).status_code == 400


def test_recomputed_units_change_no_preset(server, revisions):
    server.post("/v1/presets", json={**MINE, "steering": {"features": [{"id": "small/1", "strength": 0.8}]}})
    published(revisions, features=[Feature(id="", index=1, dose=12.0, typical_max=50.0)])
    activate(server, "r2")
    assert reply(server, model="small@mine")[1]["applied"][0]["raw"] == 4.8
    assert reply(server, model="small@bridge")[1]["applied"][0]["raw"] == 4.8
    assert reply(server, steering={"features": [{"id": "small/1", "strength": 0.8}]})[1]["applied"][0]["raw"] == 9.6


def test_snapshots_are_shown_when_asked_for_and_nobody_brings_his_own(server):
    forged = {"id": "small/1", "revision": "r7", "direction": "AAAA", "encoder": "AAAA", "bias": 0, "threshold": 0}
    body = {**MINE, "snapshots": [{**forged, "typical_max": 1, "dose": 1e6}]}
    created = server.post("/v1/presets", json=body)
    assert created.status_code == 201
    assert "snapshots" not in created.json()
    assert all("snapshots" not in p for p in server.get("/v1/presets").json()["data"])
    told = server.get("/v1/presets", params={"snapshots": True}).json()["data"]
    assert {p["id"]: [s["id"] for s in p["snapshots"]] for p in told} == {
        "bridge": ["small/1"],
        "calm": ["small/2", "small/3"],
        "mine": ["small/1", "small/2"],
    }
    assert all(s["revision"] == "r1" for p in told for s in p["snapshots"])


def test_presets_from_before_there_were_snapshots_get_theirs_at_the_start(folder, data, revisions):
    async def save():
        store = SqliteStore(data / "tiller.db")
        await store.save_preset(Preset.model_validate({**MINE, "model": "small"}))
        await store.save_preset(Preset(id="theirs", name="Theirs", model="other"))
        await store.close()

    asyncio.run(save())
    with serving(folder, data) as (address, _), httpx.Client(base_url=address, timeout=30) as http:
        until(lambda: http.get("/v1/presets/mine?snapshots=true").json()["snapshots"])
        taken = http.get("/v1/presets/mine?snapshots=true").json()["snapshots"]
        assert {(t["id"], t["revision"]) for t in taken} == {(f["id"], "r1") for f in MINE["steering"]["features"]}


def test_stale_labels_are_marked(server, revisions):
    published(revisions)
    assert server.get("/v1/features/small/1").json()["stale"] is False
    activate(server, "r2")
    assert server.get("/v1/features/small/1").json()["stale"] is True


def test_kept_prefixes_are_not_used_for_another_revision(server, revisions):
    published(revisions)
    body = {"messages": [{"role": "user", "content": "what should I do this weekend? " * 8}], **STEERED}

    def cached():
        answer = server.post("/v1/chat/completions", json={"model": "small", **ASKED, **body}).json()
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert cached() == 0
    assert cached() > 0
    activate(server, "r2")
    assert cached() == 0


async def streamed(client, number):
    """Text and revision of one streamed reply."""
    steering = {"features": [{"id": f"small/{1 + number % 4}", "strength": 1.0}]}
    body = {"model": "small", "messages": HELLO, **ASKED, "max_tokens": 60, "stream": True, "steering": steering}
    text, revision = "", ""
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                assert "error" not in event, event
                revision = event.get("steering", {}).get("revision", revision)
                text += event["choices"][0]["delta"].get("content") or ""
            elif line == "data: [DONE]":
                return number % 4, revision, text
    raise AssertionError("the stream ended without [DONE]")


async def test_sixteen_streams_across_publish_and_rollback_are_each_of_one_revision(server, revisions):
    published(revisions)
    address = str(server.base_url)
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        said, stop = [], asyncio.Event()

        async def chatting(number):
            while not stop.is_set():
                said.append(await streamed(client, number))

        async def heard(revision, before):
            await eventually(lambda: any(r == revision for _, r, _ in said[before:]))

        load = [asyncio.create_task(chatting(i)) for i in range(16)]
        for revision in ("r2", "r1", "r2", "r1"):
            before = len(said)
            assert (await client.post(f"/v1/saes/{revision}/activate")).json()["active"] == revision
            await asyncio.wait_for(heard(revision, before), 60)
        stop.set()
        await asyncio.gather(*load)
        alone = {}
        for revision in ("r1", "r2"):
            await client.post(f"/v1/saes/{revision}/activate")
            for number in range(4):
                _, told, text = await streamed(client, number)
                assert told == revision
                alone[number, revision] = text
    assert {revision for _, revision, _ in said} == {"r1", "r2"}
    assert len(set(alone.values())) == 8
    assert [s for s in said if alone[s[0], s[1]] != s[2]] == []


def tiller(*arguments, folder, data):
    return CliRunner().invoke(app, ["sae", *arguments, "--bundle", str(folder), "--data-dir", str(data)])


def test_command_line_lists_and_rolls_back_while_the_server_runs(server, revisions, folder, data):
    published(revisions)
    activate(server, "r2")
    listed = tiller("revisions", folder=folder, data=data)
    assert listed.exit_code == 0, listed.stderr
    assert "served" in next(line for line in listed.stdout.splitlines() if "r2" in line)
    back = tiller("rollback", folder=folder, data=data)
    assert (back.exit_code, "r2 → r1" in back.stdout) == (0, True), back.stderr
    until(lambda: server.get("/health").json()["revision"] == "r1")


def test_command_line_works_without_a_server_and_says_what_is_wrong(revisions, folder, data):
    published(revisions)
    assert "r1 → r2" in tiller("rollback", "--to", "r2", folder=folder, data=data).stdout
    assert "r2 → r1" in tiller("rollback", folder=folder, data=data).stdout
    for arguments, problem in (((), "has no parent"), (("--to", "r9"), "there are r1, r2")):
        failed = tiller("rollback", *arguments, folder=folder, data=data)
        assert failed.exit_code == 1
        assert problem in failed.stderr
    (revisions.live / "r2/manifest.json").write_text("{")
    assert "damaged" in tiller("revisions", folder=folder, data=data).stdout


def test_a_rollback_at_the_command_line_is_noted_where_there_are_keys(revisions, folder, data):
    published(revisions)
    assert tiller("rollback", "--to", "r2", folder=folder, data=data).exit_code == 0
    assert not AuditLog(data).file.exists()
    CliRunner().invoke(app, ["keys", "new", "ada", "--data-dir", str(data)])
    assert tiller("rollback", folder=folder, data=data).exit_code == 0
    last = [*AuditLog(data).lines()][-1]
    assert (last["act"], last["previous"], last["revision"]) == ("revision activated", "r2", "r1")
    assert last["by"]["from"] == "command line"


def test_two_who_activate_at_once_both_get_an_answer(server, revisions):
    published(revisions)
    with ThreadPoolExecutor(3) as pool:
        answers = list(
            pool.map(lambda r: httpx.post(f"{server.base_url}/v1/saes/{r}/activate").json(), ["r2", "r1", "r2"])
        )
    assert [a["active"] for a in answers] == ["r2", "r1", "r2"]
