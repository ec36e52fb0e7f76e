"""Named vectors: created from examples, used for steering like features, and visible to their owner only."""

import asyncio

import httpx
import pytest
import torch

from steering.doses.bundle_doses import prepare_rollouts
from steering.doses.measure import pushes_along
from steering.doses.rollouts import QUESTIONS
from steering.edits import as_text, as_vector
from steering.errors import BadStrength
from steering.spec import ASSISTANT, FeatureSnapshot, SteeringSpec, Vector
from tests.support import small_bundle
from tests.support.live_server import serving

RED = [f"the bridge is red and long {i}" for i in range(8)]
HELLO = [f"hello there, how are you {i}" for i in range(8)]
CHAT = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, "temperature": 0}


def make(http, user="ada", name="red", **more):
    return http.post("/v1/vectors", json={"user": user, "name": name, "a": RED, "b": HELLO, **more})


def chat(http, strength=1.0, *, user="ada", name="red", mode="add"):
    steering = {"features": [{"id": f"vector/{name}", "strength": strength, "mode": mode}]}
    return http.post("/v1/chat/completions", json={**CHAT, "user": user, "steering": steering})


@pytest.fixture
def own_http(tmp_path):
    bundle = small_bundle.write_bundle(tmp_path / "small")
    with serving(bundle, tmp_path / "data") as (address, _), httpx.Client(base_url=address) as http:
        yield http


@pytest.fixture(scope="module")
def made(live):
    """A live server where ada has the vector `red`."""
    with httpx.Client(base_url=live[0]) as http:
        assert make(http).status_code == 201
        yield http


def test_a_vector_is_made_with_a_held_out_auroc_and_a_measured_dose(made):
    (told,) = [v for v in made.get("/v1/vectors", params={"user": "ada"}).json()["data"] if v["name"] == "red"]
    assert told["id"] == "vector/red"
    assert told["auroc"] > 0.9
    assert told["measured"]
    assert told["dose"] > 0
    assert told["texts"] == {"a": 8, "b": 8}
    assert told["modes"] == ["add"]


def test_its_owner_steers_by_it_like_by_a_feature(made):
    steered, plain = chat(made).json(), made.post("/v1/chat/completions", json=CHAT).json()
    (applied,) = steered["steering"]["applied"]
    assert applied["id"] == "vector/red"
    assert applied["vector"]
    assert applied["measured"]
    assert applied["label"] == "red"
    assert "retired" not in applied
    assert all(w["code"] != "retired" for w in steered["steering"]["warnings"])
    assert steered["choices"][0]["message"]["content"] != plain["choices"][0]["message"]["content"]


def test_dose_one_is_measured_and_a_larger_one_changes_more(made, tiller):
    told = made.get("/v1/vectors", params={"user": "ada"}).json()["data"][0]
    held = asyncio.run(tiller.store.vector("ada", "small", "red"))
    assert held.snapshot.measured
    assert held.snapshot.knots[-1] == (1.0, pytest.approx(told["dose"], rel=1e-3))
    tokenizer = small_bundle.tokenizer()
    stage = prepare_rollouts(small_bundle.model(len(tokenizer)), tokenizer, "layers.1", QUESTIONS[:4], where=ASSISTANT)
    push = pushes_along(as_vector(held.snapshot.direction, small_bundle.WIDTH))
    there, beyond = stage.run([push(told["dose"]), push(2.0 * told["dose"])])
    assert float(beyond.kl.mean()) > float(there.kl.mean()) > 0


def test_to_anybody_else_it_does_not_exist(made):
    theirs, missing = chat(made, user="bob"), chat(made, user="ada", name="blue")
    assert theirs.status_code == missing.status_code == 400
    said, unknown = (a.json()["error"]["message"] for a in (theirs, missing))
    assert said.replace("red", "blue") == unknown
    assert "no feature" in said
    nobody = made.post("/v1/chat/completions", json={**CHAT, "steering": {"features": [{"id": "vector/red"}]}}).json()
    assert nobody["error"]["message"] == said
    assert made.get("/v1/vectors", params={"user": "bob"}).json()["data"] == []
    assert made.delete("/v1/vectors/red", params={"user": "bob"}).status_code == 404


def test_validate_tells_it_to_its_owner_only(made):
    steering = {"features": [{"id": "vector/red", "strength": 0.5}]}
    told = made.post("/v1/steering/validate", json={"steering": steering, "user": "ada"})
    assert told.json()["applied"][0]["vector"]
    assert made.post("/v1/steering/validate", json={"steering": steering}).status_code == 400


def test_a_diffmean_can_only_be_added_and_a_probe_can_be_clamped(made):
    refused = chat(made, mode="clamp")
    assert refused.status_code == 400
    assert "'probe'" in refused.json()["error"]["message"]
    assert make(made, name="read", method="probe").json()["modes"] == ["add", "clamp", "scale", "ablate"]
    for mode in ("add", "clamp", "ablate"):
        assert chat(made, 0.5, name="read", mode=mode).status_code == 200


def test_a_name_made_anew_has_another_fingerprint(own_http):
    make(own_http)
    first = chat(own_http).json()["steering"]["hash"]
    assert chat(own_http).json()["steering"]["hash"] == first
    taken = make(own_http)
    assert taken.status_code == 409
    assert taken.json()["error"]["param"] == "name"
    assert own_http.post(
        "/v1/vectors", json={"user": "ada", "name": "red", "a": HELLO, "b": RED, "replace": True}
    ).is_success
    assert chat(own_http).json()["steering"]["hash"] != first


def test_it_is_gone_once_deleted_and_outlives_the_server_else(tmp_path):
    bundle = small_bundle.write_bundle(tmp_path / "small")
    with serving(bundle, tmp_path / "data") as (address, _), httpx.Client(base_url=address) as http:
        make(http)
    with serving(bundle, tmp_path / "data") as (address, _), httpx.Client(base_url=address) as http:
        assert chat(http).status_code == 200
        assert http.delete("/v1/vectors/red", params={"user": "ada"}).json()["deleted"]
        assert chat(http).status_code == 400
        assert http.delete("/v1/vectors/red", params={"user": "ada"}).status_code == 404


def test_a_preset_of_its_owner_keeps_it_for_everybody_and_for_good(own_http):
    make(own_http)
    preset = {"id": "reds", "name": "Reds", "steering": {"features": [{"id": "vector/red", "strength": 0.8}]}}
    assert own_http.post("/v1/presets", json=preset).status_code == 400
    assert own_http.post("/v1/presets", json=preset, params={"user": "bob"}).status_code == 400
    assert own_http.post("/v1/presets", json=preset, params={"user": "ada"}).status_code == 201
    own_http.delete("/v1/vectors/red", params={"user": "ada"})
    reply = own_http.post("/v1/chat/completions", json={**CHAT, "user": "bob", "steering": {"preset": "reds"}}).json()
    assert reply["steering"]["applied"][0]["vector"]
    again = own_http.put("/v1/presets/reds", json={**preset, "name": "Reds again"})
    assert again.status_code == 200


@pytest.mark.parametrize(
    ("changes", "param", "says"),
    [
        ({"name": "Red Bridge"}, "name", "a letter first, got"),
        ({"name": "12"}, "name", "a letter first, got"),
        ({"a": ["x"] * 65}, "a", "64"),
        ({"a": []}, "a", ""),
        ({"a": HELLO}, "b", "no direction"),
        ({"a": HELLO[::-1], "method": "probe"}, "b", "no direction"),
        ({"method": "pca"}, "method", ""),
        ({"user": ""}, "user", ""),
        ({"a": ["red", ""]}, "a.1", ""),
        ({"colour": 1}, "colour", "unknown key"),
    ],
)
def test_what_makes_no_vector_is_refused_with_the_reason(made, changes, param, says):
    answer = make(made, **{"name": "other", **changes})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)
    assert says in answer.json()["error"]["message"]


def test_vectors_are_nobodys_without_a_user(made):
    assert made.get("/v1/vectors").status_code == 400
    assert made.delete("/v1/vectors/red").status_code == 400


def vector(name, direction):
    snapshot = FeatureSnapshot(
        id=f"vector/{name}",
        revision="r1",
        direction=as_text(direction),
        encoder="",
        bias=0,
        threshold=0,
        typical_max=1,
        dose=4,
    )
    return Vector(name=name, method="diffmean", snapshot=snapshot)


def test_the_core_pushes_along_the_vector_by_its_dose(tiller):
    held = vector("one", torch.nn.functional.normalize(torch.arange(small_bundle.WIDTH).float(), dim=0))
    spec = SteeringSpec.model_validate({"features": [{"id": "vector/one", "strength": 0.5}]})
    resolved = tiller.catalogue.resolve(spec, {"vector/one": held.snapshot})
    assert float(resolved.edits["layers.1"].push.norm()) == pytest.approx(2.0, abs=1e-5)
    gated = SteeringSpec.model_validate({"features": [{"id": "vector/one", "mode": "ablate"}]})
    with pytest.raises(BadStrength, match="it has no activation"):
        tiller.catalogue.resolve(gated, {"vector/one": held.snapshot})
