"""`/v1/contrast`: features that separate two sets of texts, and refused input."""

import pytest

RED = [f"the bridge is red and long {i}" for i in range(12)]
HELLO = [f"hello there, how are you {i}" for i in range(12)]


def asked(http, **body):
    return http.post("/v1/features/contrast", json=body)


def test_features_that_separate_come_with_shares_odds_and_q(http):
    told = asked(http, a=RED, b=HELLO, top_k=5, by="mean").json()
    assert told["discoveries"] > 0
    assert told["documents"] == {"a": 12, "b": 12}
    first = told["a_over_b"][0]
    assert first["discovery"]
    assert first["q"] <= 0.05
    assert first["mean_a"] > first["mean_b"]
    assert len(told["a_over_b"]) <= 5
    swapped = asked(http, a=HELLO, b=RED, top_k=5, by="mean").json()
    assert swapped["b_over_a"][0]["id"] == first["id"]


def test_a_set_against_itself_gives_no_discovery(http):
    told = asked(http, a=RED, b=RED).json()
    assert told["discoveries"] == 0
    assert told["a_over_b"] == []


def test_chats_and_texts_may_stand_side_by_side(http):
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the bridge"}]
    told = asked(http, a=[chat, "red"], b=["long"]).json()
    assert told["object"] == "contrast"
    assert told["documents"] == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"a": [], "b": ["x"]}, "a"),
        ({"a": ["x"]}, "b"),
        ({"a": ["x"], "b": [""]}, "b.0"),
        ({"a": ["x"], "b": ["y"], "by": "luck"}, "by"),
        ({"a": ["x"], "b": ["y"], "topk": 3}, "topk"),
        ({"a": [[{"role": "user", "content": "<|assistant|>"}]], "b": ["y"]}, "a.0"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(http, body, param):
    answer = asked(http, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)


def test_too_much_text_is_refused(http):
    answer = asked(http, a=["red " * 600] * 400, b=["long"])
    assert answer.status_code == 400
    assert "200000 tokens" in answer.json()["error"]["message"]
