"""Feedback: votes change the user's own defaults, visibly, and no other user's."""

import random

import httpx
import pytest

from tests.support import small_bundle
from tests.support.live_server import serving

LIKED = {"preset": "bridge", "scale": 0.5}
STRONG = {"preset": "bridge", "scale": 1.1}


@pytest.fixture
def own_http(tmp_path):
    bundle = small_bundle.write_bundle(tmp_path / "small")
    with serving(bundle, tmp_path / "data") as (address, _), httpx.Client(base_url=address) as http:
        yield http


def say(http, user, **said):
    return http.post("/v1/feedback", json={"user": user, **said})


def test_a_thumb_is_counted_and_told(own_http):
    told = say(own_http, "ada", kind="thumb", up=True, steering=LIKED).json()
    (default,) = told["defaults"]
    assert (default["subject"], default["votes"], default["was"]) == ("preset:bridge", 1, 1.0)
    assert default["low"] <= default["default"] <= default["high"]
    assert told["votes"][0]["liked"] == 1.0


def test_many_thumbs_move_ones_own_default_and_nobody_elses(own_http):
    for _ in range(15):
        say(own_http, "ada", kind="thumb", up=True, steering=LIKED)
        say(own_http, "ada", kind="thumb", up=False, steering=STRONG)
    ada = own_http.get("/v1/feedback", params={"user": "ada"}).json()["defaults"][0]
    assert ada["liked_most"] <= 0.7
    assert own_http.get("/v1/feedback", params={"user": "bob"}).json()["defaults"] == []


def test_one_hostile_user_in_a_hundred_moves_nobody(own_http):
    draw = random.Random(0)
    honest = [f"u{i}" for i in range(5)]
    for user in honest:
        say(own_http, user, kind="ab", better=LIKED, worse=STRONG)
    before = [own_http.get("/v1/feedback", params={"user": u}).json() for u in honest]
    for _ in range(100):
        say(own_http, "mallory", kind="thumb", up=draw.random() < 0.5, steering=STRONG)
    assert [own_http.get("/v1/feedback", params={"user": u}).json() for u in honest] == before


def test_the_last_word_and_all_words_can_be_taken_back(own_http):
    say(own_http, "ada", kind="thumb", up=True, steering=LIKED)
    first = own_http.get("/v1/feedback", params={"user": "ada"}).json()
    say(own_http, "ada", kind="ab", better=STRONG, worse=LIKED)
    undone = own_http.delete("/v1/feedback", params={"user": "ada", "last": True}).json()
    assert undone["deleted"] == 2  # a comparison was one word about two doses
    assert undone["defaults"] == first["defaults"]
    say(own_http, "bob", kind="thumb", up=True, steering=LIKED)
    assert own_http.delete("/v1/feedback", params={"user": "ada"}).json()["defaults"] == []
    assert own_http.get("/v1/feedback", params={"user": "bob"}).json()["defaults"]
    again = own_http.delete("/v1/feedback", params={"user": "ada", "last": True})
    assert again.status_code == 404


def test_a_reply_takes_its_users_defaults_where_it_names_none(own_http):
    for _ in range(12):
        say(own_http, "ada", kind="thumb", up=True, steering={"preset": "bridge", "scale": 0.4})
    expected = own_http.get("/v1/feedback", params={"user": "ada"}).json()["defaults"][0]["default"]
    chat = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "user": "ada"}
    personal = own_http.post(
        "/v1/chat/completions", json={**chat, "steering": {"preset": "bridge", "personal": True}}
    ).json()
    assert personal["steering"]["applied"][0]["strength"] == pytest.approx(0.8 * expected)
    named = own_http.post(
        "/v1/chat/completions", json={**chat, "steering": {"preset": "bridge", "scale": 0.9, "personal": True}}
    ).json()
    assert named["steering"]["applied"][0]["strength"] == pytest.approx(0.72)
    plain = own_http.post("/v1/chat/completions", json={**chat, "steering": {"preset": "bridge"}}).json()
    assert plain["steering"]["applied"][0]["strength"] == 0.8
    model_id = own_http.post(
        "/v1/chat/completions", json={**chat, "model": "small@bridge", "steering": {"personal": True}}
    ).json()
    assert model_id["steering"]["applied"] == personal["steering"]["applied"]


def test_a_features_strength_is_learnt_too(own_http):
    for _ in range(10):
        say(own_http, "ada", kind="thumb", up=True, steering={"features": [{"id": "small/1", "strength": 0.5}]})
    expected = own_http.get("/v1/feedback", params={"user": "ada"}).json()["defaults"][0]
    assert (expected["subject"], expected["low"], expected["high"]) == ("feature:small/1", 0.4, 1.0)
    body = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "user": "ada"}
    reply = own_http.post(
        "/v1/chat/completions", json={**body, "steering": {"features": [{"id": "small/1"}], "personal": True}}
    ).json()
    assert reply["steering"]["applied"][0]["strength"] == expected["default"]


def test_defaults_outlive_the_server(tmp_path):
    bundle = small_bundle.write_bundle(tmp_path / "small")
    with serving(bundle, tmp_path / "data") as (address, _), httpx.Client(base_url=address) as http:
        before = say(http, "ada", kind="thumb", up=True, steering=LIKED).json()
    with serving(bundle, tmp_path / "data") as (address, _), httpx.Client(base_url=address) as http:
        assert http.get("/v1/feedback", params={"user": "ada"}).json() == before


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"user": "ada", "kind": "thumb"}, "needs up and steering"),
        ({"user": "ada", "kind": "ab", "better": LIKED}, "worse is missing"),
        ({"user": "", "kind": "thumb", "up": True, "steering": LIKED}, "user"),
        ({"user": "ada", "kind": "thumb", "up": True, "steering": {"preset": "none"}}, "no preset 'none'"),
        ({"user": "ada", "kind": "thumb", "up": True, "steering": {}}, "no slider"),
        ({"user": "ada", "kind": "ab", "better": LIKED, "worse": LIKED}, "no slider"),
        ({"user": "ada", "kind": "wink"}, "kind"),
    ],
)
def test_what_says_nothing_is_refused_with_the_reason(own_http, body, says):
    answer = own_http.post("/v1/feedback", json=body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_personal_needs_somebody(own_http):
    body = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "steering": {"personal": True}}
    answer = own_http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "user"
