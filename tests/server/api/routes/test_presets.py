"""Presets: saved, access-controlled, and kept across a restart or a kill."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from server.version import git_commit
from steering.spec import Preset
from tests.support.live_server import serving

MINE = {
    "id": "mine",
    "name": "Mine",
    "steering": {"features": [{"id": "small/1", "strength": 0.4}]},
    "starter_prompts": ["hi?"],
}


@pytest.fixture
def preset(http):
    http.delete("/v1/presets/mine")
    yield http.post("/v1/presets", json=MINE).json()
    http.delete("/v1/presets/mine")


def test_saved_preset_is_listed_read_and_used(http, preset):
    assert preset["version"] == 1
    assert "mine" in [p["id"] for p in http.get("/v1/presets").json()["data"]]
    read = http.get("/v1/presets/mine")
    assert read.json() == preset
    assert read.headers["etag"] == '"1"'
    body = {"model": "small@mine", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    assert http.post("/v1/chat/completions", json=body).json()["steering"]["applied"][0]["strength"] == 0.4


def test_put_replaces_and_counts_versions(http, preset):
    answer = http.put("/v1/presets/mine", json={**MINE, "name": "Ours"}, headers={"if-match": '"1"'})
    assert (answer.json()["name"], answer.json()["version"]) == ("Ours", 2)


def test_change_based_on_an_old_version_is_412(http, preset):
    http.put("/v1/presets/mine", json=MINE)
    answer = http.put("/v1/presets/mine", json=MINE, headers={"if-match": "1"})
    assert answer.status_code == 412
    assert "version 2, not 1" in answer.json()["error"]["message"]


def test_creating_it_twice_is_a_conflict(http, preset):
    assert http.post("/v1/presets", json=MINE).status_code == 409


def test_deleted_preset_is_gone(http, preset):
    assert http.delete("/v1/presets/mine").json()["deleted"] is True
    assert http.get("/v1/presets/mine").status_code == 404
    assert http.delete("/v1/presets/mine").status_code == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_shipped_preset_cannot_be_changed(http, method):
    answer = http.request(method, "/v1/presets/bridge", json={**MINE, "id": "bridge"})
    assert answer.status_code == 403
    assert "another id" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"id": "Bad Id"}, "id"),
        ({"name": ""}, "name"),
        ({"steering": {"features": [{"id": "small/999"}]}}, "steering.features"),
        ({"steering": {"features": [{"id": "small/1", "strength": 1e9}]}}, "steering.features"),
        ({"colour": 1}, "colour"),
        ({"model": "gpt-4"}, "model"),
        ({"sampling": {"temperature": -5}}, "sampling.temperature"),
        ({"sampling": {"top_k": 1.5}}, "sampling.top_k"),
        ({"sampling": {"repetition_penalty": 0}}, "sampling.repetition_penalty"),
        ({"sampling": {"seed": 1e30}}, "sampling.seed"),
        ({"sampling": {"heat": 1}}, "sampling.heat"),
        ({"steering": {"oops": 1}}, "steering.oops"),
    ],
)
def test_bad_preset_is_refused_by_name(http, change, param):
    answer = http.post("/v1/presets", json={**MINE, **change})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_put_under_another_address_is_refused(http):
    assert http.put("/v1/presets/yours", json=MINE).status_code == 400


def test_validate_tells_what_would_be_done_without_the_model(http):
    body = {
        "steering": {"features": [{"id": "small/1", "strength": 1.5}, {"id": "small/3", "strength": 0.2}], "scale": 1.0}
    }
    answer = http.post("/v1/steering/validate", json=body).json()
    assert answer["valid"] is True
    assert [w["code"] for w in answer["warnings"]] == ["above_sweet_spot", "not_measured"]
    assert answer["applied"][0]["raw"] == 9.0
    assert answer["hash"].startswith("s_")


def test_features_are_searched_paged_and_shown_whole(http):
    assert [f["id"] for f in http.get("/v1/features", params={"q": "bridges"}).json()["data"]] == ["small/1"]
    page = http.get("/v1/features", params={"limit": 10}).json()
    rest = http.get("/v1/features", params={"limit": 500, "cursor": page["next_cursor"]}).json()
    assert page["has_more"] and not rest["has_more"]
    assert len({f["id"] for f in page["data"] + rest["data"]}) == 48
    one = http.get("/v1/features/small/1").json()
    assert one["sweet_spot"]["n"] == 16
    assert len(one["similar"]) == 8
    assert http.get("/v1/features/small/99").status_code == 404
    assert http.get("/v1/features", params={"cursor": "x"}).status_code == 400


def test_health_says_what_serves(http):
    health = http.get("/health").json()
    assert (health["status"], health["engine"], health["model"], health["store"]) == (
        "ok",
        "transformers",
        "small",
        "sqlite",
    )
    assert http.get("/livez").json() == {"status": "ok"}
    assert http.get("/version").json()["git"] == git_commit()


def test_only_one_of_many_creates_a_preset(live, http):
    with ThreadPoolExecutor(6) as pool:
        race = lambda _: httpx.post(f"{live[0]}/v1/presets", json=MINE | {"id": "race"}).status_code  # noqa: E731
        answers = list(pool.map(race, range(6)))
    http.delete("/v1/presets/race")
    assert sorted(answers) == [201, 409, 409, 409, 409, 409]


async def test_presets_of_another_bundle_wait_until_it_is_served(http, tiller):
    await tiller.store.save_preset(Preset(id="theirs", name="Theirs", model="other"))
    assert "theirs" not in [p["id"] for p in http.get("/v1/presets").json()["data"]]
    assert "small@theirs" not in [m["id"] for m in http.get("/v1/models").json()["data"]]
    assert http.get("/v1/presets/theirs").status_code == 404
    assert http.put("/v1/presets/theirs", json=MINE | {"id": "theirs"}).status_code == 409
    assert http.delete("/v1/presets/theirs").status_code == 409
    assert (await tiller.store.preset("theirs")).model == "other"
    await tiller.store.delete_preset("theirs")


def test_ablation_is_not_called_unmeasured(http):
    rows = [{"id": "small/3", "mode": "ablate"}, {"id": "small/2", "mode": "scale", "strength": 2}]
    assert http.post("/v1/steering/validate", json={"steering": {"features": rows}}).json()["warnings"] == []


def test_presets_survive_a_restart(bundle, tmp_path):
    with serving(bundle, tmp_path) as (address, _):
        assert httpx.post(f"{address}/v1/presets", json=MINE).status_code == 201
    with serving(bundle, tmp_path) as (address, _):
        assert httpx.get(f"{address}/v1/presets/mine").json()["name"] == "Mine"


def test_a_version_longer_than_any_number_is_refused(http):
    answer = http.put("/v1/presets/mine", json=MINE, headers={"if-match": "9" * 5000})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "If-Match")
