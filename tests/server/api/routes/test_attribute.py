"""`/v1/attribute`: features that cause the next token."""

import pytest

from server.engines.transformers.engine import TransformersEngine
from steering.errors import SteeringError


def asked(http, **body):
    return http.post("/v1/attribute", json=body)


def test_the_models_own_next_token_is_explained_by_features(http):
    told = asked(http, messages=[{"role": "user", "content": "hello"}], top_k=5).json()
    assert told["object"] == "attribution"
    assert told["target"]["text"]
    assert 0 < len(told["features"]) <= 5
    sizes = [abs(f["attribution"]) for f in told["features"]]
    assert sizes == sorted(sizes, reverse=True)
    assert all(f["ablation"] is not None for f in told["features"])


def test_a_named_token_against_another_in_plain_text(http):
    told = asked(http, text="the bridge is", target="red", against="long").json()
    assert told["against"]["text"].strip() == "long"
    turned = asked(http, text="the bridge is", target="long", against="red").json()
    assert turned["value"] == pytest.approx(-told["value"], abs=1e-3)


def test_what_the_assistant_has_begun_to_say_is_gone_on_with(http):
    user = {"role": "user", "content": "hello"}
    begun = asked(http, messages=[user, {"role": "assistant", "content": "the bridge"}]).json()
    assert begun["value"] != asked(http, messages=[user]).json()["value"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "either text or messages"),
        ({"text": "the bridge", "target": "antidisestablishment"}, "tokens"),
        ({"text": "the bridge", "top_k": 0}, "top_k"),
        ({"text": "the bridge", "tagret": "red"}, "tagret"),
        ({"text": "red " * 3000}, "can be explained"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_the_reason(http, body, says):
    answer = asked(http, **body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_an_engine_without_gradients_says_so(http, monkeypatch):
    async def refused(self, work):
        raise SteeringError("this needs the model's gradients")

    monkeypatch.setattr(TransformersEngine, "with_model", refused)
    answer = asked(http, text="the bridge")
    assert answer.status_code == 400
    assert "gradients" in answer.json()["error"]["message"]
