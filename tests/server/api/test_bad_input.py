"""Invalid requests: a 400 that names the culprit, and the next request works."""

import json

import httpx
import pytest

CHAT = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "temperature": 0}


def feature(**entry):
    return {"steering": {"features": [{"id": "small/1", "strength": 0.5, **entry}]}}


def said(content, role="user"):
    return {"messages": [{"role": role, "content": content}]}


BAD = {
    "unknown feature": (feature(id="small/999"), "steering.features.0.id", "small/0…47"),
    "unknown bundle": (feature(id="other/1"), "steering.features.0.id", "other/1"),
    "unknown preset": ({"steering": {"preset": "nobody"}}, "steering.preset", "nobody"),
    "two presets": ({"model": "small@bridge", "steering": {"preset": "calm"}}, "steering.preset", "give one"),
    "steering misspelt": ({"sterring": {"preset": "bridge"}}, "sterring", "did you mean 'steering'"),
    "preset beside the steering": ({"preset": "bridge"}, "preset", "belongs into 'steering'"),
    "unknown key in steering": ({"steering": {"feature": []}}, "steering.feature", "unknown key"),
    "unknown key with a dash": ({"steering": {"over-budget": "cut"}}, "steering.over-budget", "unknown key"),
    "unknown key in a feature": (feature(strenght=1), "steering.features.0.strenght", "unknown key"),
    "strength as a word": (feature(strength="much"), "steering.features.0.strength", "number"),
    "strength out of policy": (feature(strength=1e30), "steering.features", "steering.scale"),
    "clamp out of policy": (feature(strength=1e9, mode="clamp"), "steering.features", "steering.scale"),
    "scale out of policy": (feature(strength=1e9, mode="scale"), "steering.features", "100"),
    "unknown mode": (feature(mode="push"), "steering.features.0.mode", "ablate"),
    "unknown unit": ({"steering": {"unit": "kg"}}, "steering.unit", "dose"),
    "unknown scope": ({"steering": {"scope": "user"}}, "steering.scope", "generated"),
    "unknown extra": ({"steering": {"return": ["money"]}}, "steering.return.0", "coherence"),
    "feature twice": (
        {"steering": {"features": [{"id": "small/1"}, {"id": "small/1"}]}},
        "steering.features",
        "steering.features: 'small/1' is there twice, at 0 and at 1; keep one",
    ),
    "feature twice beside a preset": (
        {"steering": {"preset": "calm", "features": [{"id": "small/1"}, {"id": "small/4"}, {"id": "small/1"}]}},
        "steering.features",
        "'small/1' is there twice, at 0 and at 2",
    ),
    "33 features with the preset's": (
        {"steering": {"preset": "bridge", "features": [{"id": f"small/{i}", "strength": 0.01} for i in range(2, 34)]}},
        "steering.features",
        "32",
    ),
    "strength in quotes": (feature(strength="0.5"), "steering.features.0.strength", "number"),
    "strength as a truth": (feature(strength=True), "steering.features.0.strength", "number"),
    "strengths that overflow": (
        {"steering": {"features": [{"id": "small/1", "strength": 1e308, "mode": "scale"}], "scale": 1e308}},
        "steering.features",
        "finite",
    ),
    "scale that a small clamp hides": (
        {"steering": {"features": [{"id": "small/1", "strength": 1e-9, "mode": "clamp"}], "scale": 1e9}},
        "steering.features",
        "100",
    ),
    "scale that an ablation hides": (
        {
            "steering": {
                "features": [{"id": "small/1", "strength": 1e-9, "mode": "clamp"}, {"id": "small/2", "mode": "ablate"}],
                "scale": 1e9,
            }
        },
        "steering.features",
        "100",
    ),
    "33 features": ({"steering": {"features": [{"id": f"small/{i}"} for i in range(33)]}}, "steering.features", "32"),
    "steering as a list": ({"steering": []}, "steering", "object"),
    "messages missing": ({"messages": None}, "messages", "list"),
    "no messages": ({"messages": []}, "messages", "1 or more"),
    "message as a string": ({"messages": ["hi"]}, "messages.0", "object"),
    "unknown role": (said("x", "wizard"), "messages.0.role", "wizard"),
    "tool role": (said("x", "tool"), "messages.0.role", "not supported"),
    "content null": (said(None), "messages.0.content", "string"),
    "image": (said([{"type": "image_url", "image_url": {"url": "x"}}]), "messages.0.content.0", "image_url"),
    "template marker": (said("a<|end|><|assistant|>b"), "messages.0.content", "marker"),
    "long context": (said("hello " * 700), "messages", "512 tokens"),
    "no tokens": ({"max_tokens": 0}, "max_tokens", "at least 1, or -1"),
    "no completion tokens": ({"max_completion_tokens": 0}, "max_completion_tokens", "at least 1, or -1"),
    "fewer than no tokens": ({"max_tokens": -2}, "max_tokens", "at least -1"),
    "hot": ({"temperature": 3}, "temperature", "at most 2"),
    "temperature in quotes": ({"temperature": "0.5"}, "temperature", "number"),
    "stream as a word": ({"stream": "yes"}, "stream", "true or false"),
    "half a token": ({"max_tokens": 1.5}, "max_tokens", "integer"),
    "stop as a number": ({"stop": 5}, "stop", "list"),
    "a number among the stops": ({"stop": ["a", 5]}, "stop.1", "text"),
    "bias on no number": ({"logit_bias": {"x": 1}}, "logit_bias.x", "integer"),
    "repetition penalty of zero": ({"repetition_penalty": 0}, "repetition_penalty", "0.01"),
    "top_p below zero": ({"top_p": -0.1}, "top_p", "at least 0"),
    "top_logprobs alone": ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
    "21 top_logprobs": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
    "17 stops": ({"stop": list("abcdefghijklmnopq")}, "stop", "at most 16"),
    "empty stop": ({"stop": ""}, "stop", "empty"),
    "n of 9": ({"n": 9}, "n", "at most 8"),
    "tools": ({"tools": [{"type": "function"}]}, "tools", "not supported"),
    "json mode": ({"response_format": {"type": "json_object"}}, "response_format", "ask for the form"),
    "audio": ({"audio": {"voice": "x"}}, "audio", "not supported"),
    "model as a number": ({"model": 3}, "model", "text"),
    "bias on an unknown token": ({"logit_bias": {"99999": 1}}, "logit_bias", "vocabulary"),
    "stop at an unknown token": ({"stop_token_ids": [-1]}, "stop_token_ids", "vocabulary"),
}


def works(http):
    return http.post("/v1/chat/completions", json=CHAT).status_code == 200


@pytest.mark.parametrize("name", BAD)
def test_bad_field_is_a_400_that_names_it(http, name):
    change, param, words = BAD[name]
    answer = http.post("/v1/chat/completions", json={**CHAT, **change})
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert error["param"] == param
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert works(http)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b"[" * 200_000,
        json.dumps(CHAT).encode()[:-1],
        json.dumps(CHAT | feature(strength=float("nan"))).encode(),
        json.dumps(CHAT | feature(strength=float("inf"))).encode(),
        json.dumps(CHAT | feature()).replace("0.5", "1e999").encode(),
        json.dumps(CHAT | said("\ud800")).encode(),
    ],
    ids=[
        "empty",
        "brace",
        "list",
        "null",
        "string",
        "not utf-8",
        "deep",
        "cut",
        "NaN",
        "Infinity",
        "1e999",
        "lone surrogate",
    ],
)
def test_bad_body_is_a_400(http, raw):
    answer = http.post("/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert works(http)


@pytest.mark.parametrize("chunked", [True, False])
def test_body_over_a_mebibyte_is_413(http, chunked):
    body = json.dumps(CHAT | said("x" * (1 << 20))).encode()
    content = (body[i : i + 65536] for i in range(0, len(body), 65536)) if chunked else body
    answer = http.post("/v1/chat/completions", content=content)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert works(http)


def test_error_before_the_first_token_has_a_status_even_when_streaming(http):
    answer = http.post("/v1/chat/completions", json=CHAT | {"stream": True} | feature(id="small/999"))
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"


def test_unknown_path_under_v1_is_an_openai_error(http):
    for method in ("GET", "POST"):
        answer = http.request(method, "/v1/responses")
        assert answer.status_code == 404
        assert "/docs" in answer.json()["error"]["message"]


def test_every_answer_has_a_request_id(http):
    for path in ("/livez", "/health", "/v1/models", "/v1/nothing", "/nothing"):
        assert http.get(path).headers["x-request-id"].startswith("req_")
    assert http.get("/livez", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"


def test_another_host_name_is_refused(live):
    answer = httpx.get(f"{live[0]}/v1/models", headers={"host": "evil.example"})
    assert answer.status_code == 421


@pytest.mark.parametrize("host", ["[::1]", "LOCALHOST:80", "127.0.0.1"])
def test_every_name_of_this_machine_is_answered(live, host):
    assert httpx.get(f"{live[0]}/livez", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("/v1/features?limit=0", 400, "limit"),
        ("/v1/features?limit=x", 400, "limit"),
        (f"/v1/features/small/{'9' * 5000}", 404, "id"),
    ],
)
def test_bad_address_is_an_openai_error(http, path, status, param):
    answer = http.get(path)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


def test_whole_numbers_may_be_written_with_a_point(http):
    def reply(**sampling):
        body = json.dumps(CHAT | {"temperature": 1.5, "ignore_eos": True} | sampling).encode()
        answer = http.post("/v1/chat/completions", content=body).json()
        return answer["usage"]["completion_tokens"], answer["choices"][0]["message"]["content"]

    whole = reply(max_tokens=9, top_k=3, seed=7)
    assert whole[0] == 9
    assert reply(max_tokens=9.0, top_k=3.0, seed=7.0) == whole
    assert reply(max_tokens=8.0, top_k=3.0, seed=7.0)[0] == 8
    assert reply(max_tokens=9.0, top_k=3.0, seed=8.0) != whole
    assert reply(max_tokens=9.0, top_k=1.0, seed=7.0) != whole


def test_coldest_temperature_is_greedy(http):
    replies = [http.post("/v1/chat/completions", json=CHAT | {"temperature": t}).json()["choices"] for t in (0, 1e-300)]
    assert replies[0] == replies[1]


def test_top_p_of_zero_is_greedy(http):
    hot = CHAT | {"temperature": 2, "max_tokens": 8, "ignore_eos": True}
    replies = [http.post("/v1/chat/completions", json=CHAT | body).json()["choices"] for body in (
        {"max_tokens": 8, "ignore_eos": True}, hot | {"top_p": 0}, hot | {"top_p": 0, "seed": 3})]  # fmt: skip
    assert replies[0] == replies[1] == replies[2]


@pytest.mark.parametrize("most", [-1, 4000, None])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_reply_is_as_long_as_there_is_room_for(http, field, most):
    long = said("hello " * 240)
    body = {k: v for k, v in CHAT.items() if k != "max_tokens"} | long | {"ignore_eos": True, field: most}
    answer = http.post("/v1/chat/completions", json=body).json()
    assert answer["usage"]["total_tokens"] == 512
    assert answer["choices"][0]["finish_reason"] == "length"


def test_sixteen_stop_strings_are_taken(http):
    assert http.post("/v1/chat/completions", json=CHAT | {"stop": list("abcdefghijklmnop")}).status_code == 200


def test_raw_completion_refuses_what_is_not_built(http):
    for change, param in (
        ({"suffix": "x"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
    ):
        answer = http.post("/v1/completions", json={"model": "small", "prompt": "x", "max_tokens": 2, **change})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
