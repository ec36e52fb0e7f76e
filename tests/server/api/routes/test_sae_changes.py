"""Revision changes: differences in features, labels, doses and presets, before and after activation."""

from dataclasses import replace

import httpx
import pytest

from steering.catalogue.feature import Feature
from steering.catalogue.revisions import Revisions
from tests.support import small_bundle
from tests.support.live_server import serving


@pytest.fixture
def own(tmp_path):
    bundle, data = small_bundle.write_bundle(tmp_path / "small"), tmp_path / "data"
    with serving(bundle, data) as (address, _), httpx.Client(base_url=address) as http:
        yield http, Revisions(bundle, data / "revisions/small")


def turned(sae, row, by):
    """The SAE with one direction turned by so much towards the next row's."""
    rows = sae.W_dec.clone()
    rows[row] = (1 - by) * rows[row] + by * rows[row + 1]
    return replace(sae, W_dec=rows / rows.norm(dim=1, keepdim=True))


def publish(revisions):
    """A child: 2 has turned a lot and 5 a little, 1 is retired, 3 has another label and dose, and one is new."""
    before = revisions.open("r1")
    numbers = revisions.numbers_after("r1", recycled=[1])
    told = [
        Feature(id="small/3", index=3, label="long things", dose=2.5),
        Feature(id="", index=numbers[1], label="new"),
    ]
    return revisions.publish(before, turned(turned(before.sae, 2, 0.5), 5, 0.18), told, numbers=numbers).revision


def ids(listed):
    return [f["id"] for f in listed["data"]]


def test_every_kind_of_change_is_told_with_the_presets_that_it_touches(own):
    http, revisions = own
    assert publish(revisions) == "r2"
    told = http.get("/v1/saes/r2/changes").json()
    assert (told["object"], told["revision"], told["since"], told["kept"]) == ("sae.changes", "r2", "r1", 47)
    assert told["added"]["data"] == [{"id": "small/48", "label": "new", "density": 0.0}]
    assert told["retired"]["data"] == [{"id": "small/1", "label": "bridges"}]
    assert ids(told["moved"]) == ["small/2", "small/5"]
    assert told["moved"]["data"][0]["cosine"] < told["moved"]["data"][1]["cosine"] < 0.98
    assert ids(told["stale"]) == ["small/2"]  # 5 has no label, and has turned less
    assert [(f["id"], f["before"]) for f in told["relabelled"]["data"]] == [("small/3", "on “red”, says “long”")]
    assert told["remeasured"]["data"] == [{"id": "small/3", "label": "long things", "dose": 2.5, "before": None}]
    bridge, calm = told["presets"]["data"]
    assert (bridge["id"], bridge["features"][0]["what"]) == ("bridge", ["retired"])
    assert [(f["id"], f["what"]) for f in calm["features"]] == [
        ("small/2", ["moved", "stale"]),
        ("small/3", ["remeasured"]),
    ]


def test_the_way_back_is_the_mirror_image(own):
    http, revisions = own
    publish(revisions)
    told = http.get("/v1/saes/r1/changes", params={"since": "r2"}).json()
    assert (ids(told["added"]), ids(told["retired"])) == (["small/1"], ["small/48"])
    assert told["stale"]["data"] == []
    same = http.get("/v1/saes/r2/changes", params={"since": "r2"}).json()
    assert {
        same[k]["total"] for k in ("added", "retired", "moved", "stale", "relabelled", "remeasured", "presets")
    } == {0}
    assert same["kept"] == 48


def test_a_label_by_hand_is_no_label_in_doubt(own):
    http, revisions = own
    publish(revisions)
    http.patch("/v1/features/small/2", json={"label": "mine"})
    told = http.get("/v1/saes/r2/changes").json()
    assert told["stale"]["data"] == []
    assert told["moved"]["data"][0]["label"] == "mine"


def test_saved_presets_are_among_those_touched(own):
    http, revisions = own
    body = {"id": "mine", "name": "Mine", "steering": {"features": [{"id": "small/5"}]}}
    http.put("/v1/presets/mine", json=body)
    publish(revisions)
    touched = http.get("/v1/saes/r2/changes").json()["presets"]["data"]
    assert [(p["id"], p["readonly"]) for p in touched] == [("bridge", True), ("calm", True), ("mine", False)]


def test_long_lists_come_page_by_page(own):
    http, revisions = own
    publish(revisions)
    one = http.get("/v1/saes/r2/changes", params={"limit": 1}).json()["moved"]
    assert (ids(one), one["total"], one["has_more"]) == (["small/2"], 2, True)
    two = http.get("/v1/saes/r2/changes", params={"limit": 1, "cursor": one["next_cursor"]}).json()["moved"]
    assert (ids(two), two["has_more"], two["next_cursor"]) == (["small/5"], False, None)


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("r1/changes", 400, "since"),
        ("r9/changes", 404, "revision"),
        ("r1/changes?since=r9", 404, "since"),
        ("r1/changes?since=" + "x" * 500, 404, "since"),
        ("r1/changes?since=r1&limit=0", 400, "limit"),
        ("r1/changes?since=r1&cursor=x", 400, "cursor"),
    ],
)
def test_a_wrong_turn_is_named(http, path, status, param):
    answer = http.get(f"/v1/saes/{path}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_a_damaged_revision_is_refused_by_name(own):
    http, revisions = own
    publish(revisions)
    (revisions.live / "r2" / "sae_weights.safetensors").write_bytes(b"no")
    answer = http.get("/v1/saes/r2/changes")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "revision_refused")
