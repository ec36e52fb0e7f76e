"""Shares: off by default; when enabled, an unguessable address returns exactly what was shared, until it expires."""

import sqlite3
import time

import httpx
import pytest

from tests.support.live_server import serving

STEERING = {"features": [{"id": "small/1", "strength": 0.4}], "scale": 0.5}
SHARED = {"model": "small", "steering": STEERING, "seed": 7}
SAID = [{"role": "user", "content": "hi “there”"}, {"role": "assistant", "content": "hello"}]


@pytest.fixture
def served(bundle, tmp_path):
    settings = {"shares": True, "share_bytes": 600, "share_most": 3}
    with serving(bundle, tmp_path, **settings) as (address, _), httpx.Client(base_url=address) as http:
        yield http


def share(http, **more):
    return http.post("/v1/shares", json={**SHARED, **more})


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("GET", "/x"), ("DELETE", "/x")])
def test_it_is_off_and_says_how_to_turn_it_on(http, method, path):
    answer = http.request(method, f"/v1/shares{path}", json=SHARED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "shares_off")
    assert "TILLER_SHARES=true" in answer.json()["error"]["message"]
    assert http.get("/v1/limits").json()["shares"]["on"] is False


def test_what_is_shared_is_told_as_it_was_and_steers(served):
    made = share(served, messages=SAID, title="Bridge")
    assert made.status_code == 201, made.text
    told = served.get(f"/v1/shares/{made.json()['id']}").json()
    assert told["steering"] == STEERING
    assert (told["model"], told["seed"], told["messages"], told["title"]) == ("small", 7, SAID, "Bridge")
    assert told["expires"] - told["created"] == 30 * 86_400
    assert "key" not in told
    ask = {"model": told["model"], "steering": told["steering"]}
    assert served.post("/v1/steering/validate", json=ask).json()["applied"][0]["strength"] == 0.2


def test_nothing_is_shared_that_was_not_given(served):
    told = served.get(f"/v1/shares/{share(served, seed=None).json()['id']}").json()
    assert (told["messages"], told["title"], told["seed"]) == (None, None, None)


def test_ids_cannot_be_guessed_and_keys_are_not_kept(served, tmp_path):
    one, two = (share(served).json() for _ in range(2))
    assert len({one["id"], two["id"], one["key"], two["key"]}) == 4
    assert min(len(one["id"]), len(one["key"])) >= 22  # 128 bits
    rows = sqlite3.connect(tmp_path / "tiller.db").execute("SELECT * FROM shares").fetchall()
    assert one["key"] not in str(rows)


def test_only_its_key_deletes_it(served):
    made = share(served).json()
    for key in ("", "x", made["id"], "\N{SNOWMAN}"):
        answer = served.delete(f"/v1/shares/{made['id']}", params={"key": key})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_key")
    deleted = served.delete(f"/v1/shares/{made['id']}", params={"key": made["key"]})
    assert deleted.json() == {"id": made["id"], "object": "share", "deleted": True}
    for again in (served.get(f"/v1/shares/{made['id']}"), served.delete(f"/v1/shares/{made['id']}")):
        assert (again.status_code, again.json()["error"]["code"]) == (404, "share_not_found")


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"steering": {"features": [{"id": "small/999"}]}}, 400, "steering.features.0.id"),
        ({"steering": {"features": [{"id": "vector/mine"}]}}, 400, "steering.features.0.id"),
        ({"steering": {"featurs": []}}, 400, "steering.featurs"),
        ({"model": "gpt-4"}, 404, "model"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x" * 900}]}, 413, "messages"),
        ({"seed": "seven"}, 400, "seed"),
        ({"page": "x"}, 400, "page"),
    ],
)
def test_what_cannot_be_shared_is_named(served, change, status, param):
    answer = share(served, **change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_there_are_only_so_many_and_they_expire(served, tmp_path):
    for _ in range(3):
        assert share(served).status_code == 201
    assert share(served).json()["error"]["code"] == "shares_full"
    with sqlite3.connect(tmp_path / "tiller.db") as db:
        db.execute("UPDATE shares SET expires = ?", (int(time.time()) - 1,))
    old = db.execute("SELECT id FROM shares").fetchone()[0]
    assert served.get(f"/v1/shares/{old}").status_code == 404
    assert share(served).status_code == 201
    assert db.execute("SELECT COUNT(*) FROM shares").fetchone() == (1,)
