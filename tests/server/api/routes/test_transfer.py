"""Export and import: a round trip is the identity, and an import is applied completely or not at all."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch

from server.executors import IMPORTS
from steering.edits import as_text
from tests.support import small_bundle
from tests.support.live_server import serving

MINE = {"id": "mine", "name": "Mine", "steering": {"features": [{"id": "small/1", "strength": 0.4}]}}
YOURS = {"id": "yours", "name": "Yours", "steering": {"features": [{"id": "small/2", "strength": -0.4}]}}
RED = [f"the bridge is red and long {i}" for i in range(8)]
HELLO = [f"hello there, how are you {i}" for i in range(8)]


@pytest.fixture
def served(bundle, tmp_path):
    with serving(bundle, tmp_path / "one") as (address, _), httpx.Client(base_url=address) as http:
        yield http


@pytest.fixture
def other(bundle, tmp_path):
    """Another server with the same model and nothing in its store."""
    with serving(bundle, tmp_path / "two") as (address, _), httpx.Client(base_url=address) as http:
        yield http


def results(answer):
    assert answer.status_code == 200, answer.text
    return {p["id"]: p["result"] for p in answer.json()["data"]}


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def put(http, *presets):
    for p in presets:
        assert http.put(f"/v1/presets/{p['id']}", json=p).status_code == 200


def ids(http):
    return [p["id"] for p in http.get("/v1/presets").json()["data"]]


def bundle_of(*presets, **more):
    return {"presets": list(presets), **more}


def test_presets_go_to_another_server_and_steer_alike_there(served, other):
    put(served, MINE, YOURS)
    exported = served.get("/v1/presets/export")
    assert "attachment" in exported.headers["content-disposition"]
    document = exported.json()
    assert (document["object"], document["version"], document["model"]) == ("preset.bundle", 1, "small")
    assert results(other.post("/v1/presets/import", json=document)) == {"mine": "created", "yours": "created"}
    ask = {"steering": {"preset": "mine"}}
    here, there = (h.post("/v1/steering/validate", json=ask).json() for h in (served, other))
    assert here == there
    assert other.get("/v1/presets/mine", params={"snapshots": True}).json()["snapshots"]


def test_importing_what_is_there_changes_nothing(served):
    put(served, MINE)
    before = served.get("/v1/presets/mine?snapshots=true").json()
    assert results(served.post("/v1/presets/import", json=served.get("/v1/presets/export").json())) == {
        "mine": "unchanged"
    }
    assert served.get("/v1/presets/mine?snapshots=true").json() == before


def test_shipped_presets_go_along_when_asked_and_are_never_overwritten(served):
    document = served.get("/v1/presets/export", params={"shipped": True}).json()
    assert [p["id"] for p in document["presets"]] == ["bridge", "calm"]
    assert results(served.post("/v1/presets/import", json=document)) == {"bridge": "unchanged", "calm": "unchanged"}
    document["presets"][0]["name"] = "Mine now"
    error = error_of(served.post("/v1/presets/import", json={**document, "replace": True}), 403)
    assert (error["code"], error["param"]) == ("preset_readonly", "presets.0.id")


def test_only_those_that_are_asked_for_are_exported(served):
    put(served, MINE, YOURS)
    document = served.get("/v1/presets/export", params={"ids": "yours,bridge"}).json()
    assert [p["id"] for p in document["presets"]] == ["yours", "bridge"]
    assert error_of(served.get("/v1/presets/export", params={"ids": "nobody"}), 404)["param"] == "ids"


def test_a_conflict_is_refused_whole_unless_it_is_to_be_replaced(served):
    put(served, MINE)
    changed = bundle_of(YOURS, {**MINE, "name": "Changed"})
    error = error_of(served.post("/v1/presets/import", json=changed), 409)
    assert (error["code"], error["param"], error["conflicts"]) == ("import_conflict", "replace", ["preset:mine"])
    assert "yours" not in ids(served)
    done = results(served.post("/v1/presets/import", json={**changed, "replace": True}))
    assert done == {"yours": "created", "mine": "replaced"}
    assert (served.get("/v1/presets/mine").json()["name"], served.get("/v1/presets/mine").json()["version"]) == (
        "Changed",
        2,
    )


def test_a_preset_for_another_model_names_the_features_that_cannot_be_mapped(served):
    foreign = {
        "id": "far",
        "name": "Far",
        "model": "gemma",
        "steering": {"features": [{"id": "gemma/7"}, {"id": "gemma/9"}]},
    }
    error = error_of(served.post("/v1/presets/import", json=bundle_of(MINE, foreign)), 400)
    assert (error["code"], error["param"]) == ("cannot_be_mapped", "presets.1.model")
    assert error["features"] == ["gemma/7", "gemma/9"]
    assert "gemma" in error["message"]
    assert "mine" not in ids(served)
    strange = {**MINE, "steering": {"features": [{"id": "small/1"}, {"id": "small/999"}, {"id": "vector/red"}]}}
    error = error_of(served.post("/v1/presets/import", json=bundle_of(strange)), 400)
    assert (error["param"], error["features"]) == ("presets.0.steering.features", ["small/999", "vector/red"])


BAD = {
    "no presets": ({}, "presets"),
    "one id twice": (bundle_of(MINE, MINE), "presets"),
    "unknown key": (bundle_of(MINE, presetz=[]), "presetz"),
    "another version": (bundle_of(MINE, version=2), "version"),
    "bad strength": (bundle_of({**MINE, "steering": {"features": [{"id": "small/1", "strength": "x"}]}}), "presets.0.steering.features.0.strength"),
    "out of policy": (bundle_of(YOURS, {**MINE, "steering": {"features": [{"id": "small/1", "strength": 1e9}]}}), "presets.1.steering.features"),
    "bad sampling": (bundle_of({**MINE, "sampling": {"temperature": 9}}), "presets.0.sampling.temperature"),
    "an address as an id": (bundle_of({**MINE, "id": "export"}), "presets.0.id"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_bundle_is_named_and_leaves_nothing(http, name):
    body, param = BAD[name]
    before = ids(http)
    assert error_of(http.post("/v1/presets/import", json=body), 400)["param"] == param
    assert ids(http) == before


def test_nobody_brings_vectors_in_a_bundle(served):
    sly = served.get("/v1/presets/bridge?snapshots=true").json()["snapshots"]
    body = bundle_of({**MINE, "snapshots": [{**s, "dose": 9.0, "measured": True} for s in sly]})
    assert results(served.post("/v1/presets/import", json=body)) == {"mine": "created"}
    assert served.get("/v1/presets/mine?snapshots=true").json()["snapshots"][0]["dose"] == 6.0


def fill(http, user="ada"):
    """A preset that holds a vector, words about features, votes of each kind."""
    made = {"user": user, "name": "red", "a": RED, "b": HELLO}
    assert http.post("/v1/vectors", json=made).status_code == 201
    both = [{"id": "small/1", "strength": 0.4}, {"id": "vector/red", "strength": 0.3}]
    held = {**MINE, "steering": {"features": both}, "system_prompt": "Be “red”.", "sampling": {"temperature": 0.3}}
    assert http.put("/v1/presets/mine", params={"user": user}, json=held).status_code == 200
    put(http, YOURS)
    put(http, YOURS)
    http.patch("/v1/features/small/3", json={"label": "long ones", "note": "or – so", "starred": True, "user": user})
    http.patch("/v1/features/small/7", json={"starred": True})
    for up in (True, False):
        http.post(
            "/v1/feedback",
            json={"user": user, "kind": "thumb", "up": up, "steering": {"preset": "bridge", "scale": 0.7}},
        )
    two = [{"preset": "bridge", "features": [{"id": "small/2", "strength": s}], "scale": s} for s in (0.3, 0.9)]
    http.post("/v1/feedback", json={"user": user, "kind": "ab", "better": two[0], "worse": two[1]})


def exported(http, user="ada"):
    answer = http.get("/v1/export", params={"user": user})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    document.pop("exported")
    return document


def test_the_round_trip_to_another_server_is_the_identity(served, other):
    fill(served)
    document = exported(served)
    assert [len(document[k]) for k in ("presets", "features", "vectors", "votes")] == [2, 2, 1, 3]
    done = other.post("/v1/import", json=document)
    assert done.status_code == 200, done.text
    none = {"replaced": 0, "unchanged": 0}
    assert done.json()["counts"] == {
        "preset": {"created": 2, **none},
        "feature": {"created": 2, **none},
        "vector": {"created": 1, **none},
        "votes": {"created": 1, **none},
    }
    assert exported(other) == document
    assert other.get("/v1/features/small/3").json()["label"] == "long ones"
    told = [h.get("/v1/feedback", params={"user": "ada"}).json() for h in (served, other)]
    assert told[0] == told[1]
    ask = {"model": "small@mine", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}
    said = [h.post("/v1/chat/completions", json=ask).json() for h in (served, other)]
    assert said[0]["choices"] == said[1]["choices"]
    assert said[0]["steering"] == said[1]["steering"]
    other.request("DELETE", "/v1/feedback", params={"user": "ada", "last": True})
    assert len(exported(other)["votes"]) == 2  # what was said at once is still one thing


def test_importing_it_again_changes_nothing(served):
    fill(served)
    document = exported(served)
    again = served.post("/v1/import", json=document)
    assert again.status_code == 200, again.text
    counts = again.json()["counts"]
    assert {(c["created"], c["replaced"]) for c in counts.values()} == {(0, 0)}
    assert exported(served) == document


def test_an_import_that_conflicts_is_refused_whole_or_replaces(served, other):
    fill(served)
    document = exported(served)
    put(other, {**MINE, "name": "Another"})
    error = error_of(other.post("/v1/import", json=document), 409)
    assert error["conflicts"] == ["preset:mine"]
    assert exported(other)["vectors"] == exported(other)["features"] == exported(other)["votes"] == []
    assert other.post("/v1/import", json={**document, "replace": True}).json()["counts"]["preset"]["replaced"] == 1
    assert other.get("/v1/presets/mine").json()["name"] == "Mine"


def test_what_others_said_and_made_stays_theirs(served):
    fill(served)
    served.patch("/v1/features/small/9", json={"note": "eve's", "user": "eve"})
    eve = exported(served, "eve")
    assert (eve["vectors"], eve["votes"]) == ([], [])
    assert [f["id"] for f in eve["features"]] == ["small/7", "small/9"]
    assert [f["id"] for f in exported(served)["features"]] == ["small/3", "small/7"]


def test_a_retired_feature_goes_along_with_its_preset(served, other):
    fill(served)
    document = exported(served)
    gone = copy.deepcopy(document["presets"][1])
    gone["steering"]["features"][0]["id"] = gone["snapshots"][0]["id"] = "small/4711"
    document["presets"][1] = gone
    assert other.post("/v1/import", json=document).status_code == 200
    told = other.post("/v1/steering/validate", json={"steering": {"preset": "yours"}}).json()
    assert told["applied"][0]["retired"] is True


def _vector(d):
    return d["vectors"][0]["snapshot"]


RUBBISH = {
    "no version": (lambda d: d.pop("version"), "version"),
    "another model": (lambda d: d.update(model="gemma"), "model"),
    "unknown key": (lambda d: d.update(extra=1), "extra"),
    "a vector of another width": (lambda d: _vector(d).update(direction=as_text(torch.ones(3))), "vectors.0.snapshot"),
    "a vector that is no base64": (lambda d: _vector(d).update(direction="§"), "vectors.0.snapshot"),
    "a vector that is too long": (lambda d: _vector(d).update(direction=as_text(torch.ones(small_bundle.WIDTH))), "vectors.0.snapshot"),
    "a vector of no number": (lambda d: _vector(d).update(direction=as_text(torch.full((small_bundle.WIDTH,), float("nan")))), "vectors.0.snapshot"),
    "a vector by another name": (lambda d: _vector(d).update(id="vector/blue"), "vectors.0"),
    "a dose of zero": (lambda d: _vector(d).update(dose=0), "vectors.0.snapshot"),
    "a curve that falls": (lambda d: _vector(d).update(knots=[[0, 0], [1, 0]]), "vectors.0.snapshot.knots"),
    "one preset twice": (lambda d: d["presets"].append(d["presets"][0]), "presets"),
    "a preset for another model": (lambda d: d["presets"][0].update(model="gemma"), "presets.0.model"),
    "a snapshot of something else": (lambda d: d["presets"][0]["snapshots"][0].update(id="small/9"), "presets.0.snapshots.0"),
    "a snapshot too few": (lambda d: d["presets"][0]["snapshots"].pop(), "presets.0.steering.features"),
    "a sweet spot the wrong way": (lambda d: d["presets"][0].update(sweet_spot={"low": 2, "high": 1}), "presets.0.sweet_spot"),
    "a shipped preset": (lambda d: d["presets"][0].update(id="bridge"), "presets.0.id"),
    "a feature of another model": (lambda d: d["features"][0].update(id="gemma/3"), "features.0.id"),
    "a feature that is none": (lambda d: d["features"][0].update(id="small/03"), "features.0.id"),
    "nothing said": (lambda d: d["features"][1].update(starred=False), "features.1"),
    "a label of two lines": (lambda d: d["features"][0].update(label="a\nb"), "features.0.label"),
    "a vote beyond liking": (lambda d: d["votes"][0]["votes"][0].update(liked=7), "votes.0.votes.0.liked"),
    "a vote of no kind": (lambda d: d["votes"][0].update(kind="shout"), "votes.0.kind"),
    "votes on nothing": (lambda d: d["votes"][0]["votes"][0].update(subject="weather"), "votes.0.votes.0.subject"),
}  # fmt: skip


@pytest.fixture(scope="module")
def document(bundle, tmp_path_factory):
    place = tmp_path_factory.mktemp("full")
    with serving(bundle, place) as (address, _), httpx.Client(base_url=address) as http:
        fill(http)
        return exported(http)


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_in_an_import_is_named_and_leaves_nothing(http, document, name):
    change, param = RUBBISH[name]
    body = copy.deepcopy(document)
    change(body)
    before = exported(http)
    answer = http.post("/v1/import", json=body)
    assert answer.status_code in (400, 403), answer.text
    assert answer.json()["error"]["param"] == param
    assert exported(http) == before


def test_an_export_says_whose_and_an_import_may_be_larger_than_a_request(bundle, tmp_path):
    settings = {"max_body": 2000, "max_import": 100_000}
    with serving(bundle, tmp_path, **settings) as (address, _), httpx.Client(base_url=address) as http:
        assert error_of(http.get("/v1/export"), 400)["param"] == "user"
        many = bundle_of(*({**MINE, "id": f"p{i}"} for i in range(100)))
        assert http.post("/v1/presets/import", json=many).status_code == 200
        assert http.post("/v1/presets/import", content=b" " * 200_000).status_code == 413
        assert http.post("/v1/presets", content=b" " * 3000).status_code == 413


def test_two_imports_at_once_are_one_after_the_other(served):
    bundles = [bundle_of(*({**MINE, "id": f"p{i}", "name": who} for i in range(20))) for who in ("a", "b")]
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda b: served.post("/v1/presets/import", json=b).status_code, bundles))
    assert sorted(codes) == [200, 409]
    names = {p["name"] for p in served.get("/v1/presets").json()["data"] if p["id"].startswith("p")}
    assert len(names) == 1


def test_documents_are_read_one_at_a_time_beside_other_bodies(served):
    busy = threading.Event()
    held = IMPORTS.submit(busy.wait, 60)
    large = bundle_of(*({**MINE, "id": f"q{i}", "description": "x" * 400} for i in range(60)))
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lambda: served.post("/v1/presets/import", json=large).status_code)
            text = {"text": "the bridge is red " * 2000, "limit": 1, "top_k": 1}
            assert served.post("/v1/analyze", json=text).status_code == 200
            assert not waiting.done()
            busy.set()
            assert waiting.result(60) == 200
    finally:
        busy.set()
    assert held.result()


def test_a_document_of_millions_of_mistakes_is_refused_at_the_first(served):
    for body in ({"presets": [0] * 2000}, {"presets": [0] * 2001}, {"presets": [{"id": []}] * 2000}):
        answer = served.post("/v1/presets/import", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] in ("presets", "presets.0", "presets.0.id", "presets.0.name")
