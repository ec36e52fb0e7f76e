"""Completions of several prompts, as text or as tokens: each is continued as if it were the only one."""

import json
import threading

import httpx
import openai
import pytest

from server.engines.base import Overloaded
from server.executors import SEARCH
from tests.support.halted_engine import halted
from tests.support.live_server import asking, serving
from tests.support.waiting import until

TEXTS = ["the bridge", "hello there, how are you", "what should I do", "red and long"]
GREEDY = {"model": "small", "max_tokens": 10, "temperature": 0, "ignore_eos": True}
SEEDED = {**GREEDY, "temperature": 1.5, "seed": 5}
STEER = {"steering": {"features": [{"id": "small/1", "strength": 0.9}]}}
ADMIN = "the-first-key-of-this-server-is-long-enough"


def create(client, prompt, **about):
    extra = {k: about.pop(k) for k in ("ignore_eos", "steering") if k in about}
    return client.completions.create(prompt=prompt, extra_body=extra, **about)


def texts(answer):
    assert [c.index for c in answer.choices] == list(range(len(answer.choices)))
    return [c.text for c in answer.choices]


@pytest.fixture
def ids(tiller):
    return [list(tiller.engine.encode(text)) for text in TEXTS]


@pytest.mark.parametrize(
    "how", [GREEDY, SEEDED, GREEDY | STEER, SEEDED | {"n": 3}], ids=["greedy", "seeded", "steered", "n"]
)
def test_each_of_several_prompts_is_continued_as_if_it_were_alone(client, ids, how):
    alone = [t for text in TEXTS for t in texts(create(client, text, **how))]
    assert texts(create(client, TEXTS, **how)) == alone
    assert texts(create(client, ids, **how)) == alone
    assert len(set(alone)) == len(alone)


def test_tokens_are_continued_as_the_text_that_they_are(client, ids):
    for text, tokens in zip(TEXTS, ids, strict=True):
        one, other = create(client, text, **GREEDY), create(client, tokens, **GREEDY)
        assert texts(one) == texts(other)
        assert one.usage == other.usage


def test_an_equal_prompt_gets_an_equal_reply_and_another_seed_for_its_next(client):
    first, second, again, more = texts(create(client, ["red", "red"], **SEEDED, n=2))
    assert (first, second) == (again, more)
    assert second == texts(create(client, "red", **{**SEEDED, "seed": 6}))[0] != first


def test_tokens_of_all_prompts_are_counted_each_once(client):
    parts = [create(client, text, **GREEDY, n=2).usage for text in TEXTS]
    whole = create(client, TEXTS, **GREEDY, n=2).usage
    for field in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(whole, field) == sum(getattr(u, field) for u in parts)
    assert whole.completion_tokens == 2 * len(TEXTS) * 10


def test_a_stream_tells_each_choice_by_its_index(client):
    chunks = list(create(client, TEXTS, **SEEDED, n=2, stream=True, stream_options={"include_usage": True}))
    said, ended = [""] * 8, {}
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        said[choice.index] += choice.text
        if choice.finish_reason:
            ended[choice.index] = choice.finish_reason
    assert said == texts(create(client, TEXTS, **SEEDED, n=2))
    assert ended == dict.fromkeys(range(8), "length")
    assert chunks[-1].usage.completion_tokens == 80


def test_several_prompts_tell_their_one_steering_once(client):
    answer = create(client, TEXTS, **GREEDY, **STEER)
    assert answer.model_extra["steering"]["applied"][0]["id"] == "small/1"
    assert not any("steering" in c.model_extra for c in answer.choices)
    chunks = list(create(client, TEXTS, **GREEDY, **STEER, stream=True))
    assert ["steering" in c.model_extra for c in chunks] == [True] + [False] * (len(chunks) - 1)


def test_what_a_choice_was_judged_is_told_with_it(client):
    asked = {"steering": {**STEER["steering"], "return": ["applied", "coherence"]}}
    answer = create(client, TEXTS[:2], **GREEDY, **asked)
    alone = [create(client, text, **GREEDY, **asked).model_extra["steering"]["coherence"] for text in TEXTS[:2]]
    assert answer.model_extra["steering"]["coherence"] == alone[0]
    assert answer.choices[1].model_extra["steering"] == {"coherence": alone[1]}
    last = {c.choices[0].index: c for c in create(client, TEXTS[:2], **GREEDY, **asked, stream=True)}
    assert [last[i].model_extra["steering"]["coherence"] for i in (0, 1)] == alone


def test_logprobs_line_up_with_the_text_of_each_prompt(client):
    for choice, text in zip(create(client, TEXTS, **GREEDY, logprobs=1).choices, TEXTS, strict=True):
        alone = create(client, text, **GREEDY, logprobs=1).choices[0].logprobs
        assert choice.logprobs.tokens == alone.tokens
        assert choice.logprobs.text_offset == alone.text_offset
        assert choice.logprobs.token_logprobs == pytest.approx(alone.token_logprobs, abs=1e-4)


def test_whole_numbers_may_be_written_with_a_point(client, ids):
    assert texts(create(client, [float(i) for i in ids[0]], **GREEDY)) == texts(create(client, ids[0], **GREEDY))


@pytest.mark.parametrize(
    ("prompt", "param", "says"),
    [
        (None, "prompt", "must be text or a list, got null"),
        (5, "prompt", "must be text or a list, got 5"),
        ({}, "prompt", "must be text or a list, got an object"),
        ([], "prompt", "must have 1 or more items"),
        ([[]], "prompt.0", "must have 1 or more tokens"),
        (["a", []], "prompt.1", "must have 1 or more tokens"),
        (["a", 5], "prompt.1", "must be text or a list of token ids, got 5"),
        (["a", None], "prompt.1", "must be text or a list of token ids, got null"),
        ([True], "prompt.0", "got true"),
        ([1, "a"], "prompt.1", "must be a token id, got 'a'"),
        ([1, True], "prompt.1", "must be a token id, got true"),
        ([[1], [2, 1.5]], "prompt.1.1", "must be a token id, got 1.5"),
        ([[1, [2]]], "prompt.0.1", "must be a token id, got a list"),
        ([5, 6, 7, 99_999], "prompt.3", "token 99999 is not in the vocabulary"),
        ([5, -1], "prompt.1", "token -1 is not in the vocabulary"),
        ([[5], [6, 10**30]], "prompt.1.1", "is not in the vocabulary"),
        (["x"] * 129, "prompt", "129 prompts; at most 128 at once"),
        (["a", "hello " * 700], "prompt.1", "the context holds 512 tokens; prompt.1 takes"),
        ([[5], [5] * 512], "prompt.1", "prompt.1 takes 512 tokens"),
    ],
)  # fmt: skip
def test_a_prompt_that_cannot_be_is_refused_by_its_place(http, prompt, param, says):
    answer = http.post("/v1/completions", json=GREEDY | {"prompt": prompt})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert says in error["message"]
    assert (error["code"] == "context_length_exceeded") == ("context" in error["message"])


def test_prompts_times_n_are_bounded(http):
    error = http.post("/v1/completions", json=GREEDY | {"prompt": ["x"] * 33, "n": 4}).json()["error"]
    assert error["message"] == "33 prompts with n of 4 are 132 replies; at most 128 at once: send fewer at a time"


@pytest.mark.parametrize("stream", [False, True])
def test_more_prompts_than_the_server_has_room_for_take_turns(bundle, tmp_path, client, stream):
    many = [f"{text} {i}" for i in range(10) for text in TEXTS]
    said = [""] * len(many)
    with (
        serving(bundle, tmp_path, live=2, queue=1) as (address, _),
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as few,
    ):
        answer = create(few, many, **GREEDY, stream=stream)
        for chunk in answer if stream else [answer]:
            for choice in chunk.choices:
                said[choice.index] += choice.text
    assert said == texts(create(client, many, **GREEDY))


@pytest.mark.parametrize("full", [1, 3])
def test_a_queue_that_others_fill_meanwhile_ends_no_list_that_has_begun(bundle, tmp_path, full):
    with serving(bundle, tmp_path, live=1, queue=1) as (address, app):
        engine, asked = app.state.served_model.engine, []
        plain = engine.generate

        async def crowded(request):
            asked.append(request)
            if full <= len(asked) < full + 2:
                raise Overloaded(1)
            async for piece in plain(request):
                yield piece

        engine.generate = crowded
        answer = httpx.post(f"{address}/v1/completions", json=GREEDY | {"prompt": TEXTS})
        if full == 1:
            assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        else:
            alone = [httpx.post(f"{address}/v1/completions", json=GREEDY | {"prompt": t}) for t in TEXTS]
            assert [c["text"] for c in answer.json()["choices"]] == [a.json()["choices"][0]["text"] for a in alone]


def test_prompts_keep_to_a_keys_replies_at_a_time_and_all_their_tokens_count(bundle, tmp_path):
    with serving(bundle, tmp_path, admin_key=ADMIN) as (address, app):
        admin, most = {"Authorization": f"Bearer {ADMIN}"}, []
        engine = app.state.served_model.engine
        plain = engine.generate

        async def watched(request):
            async for piece in plain(request):
                most.append(sum(engine.occupancy))
                yield piece

        engine.generate = watched
        limits = {"concurrent": 2, "tokens": 100}
        made = httpx.post(f"{address}/v1/keys", json={"name": "ada", "role": "user", "limits": limits}, headers=admin)
        mine = {"Authorization": f"Bearer {made.json()['secret']}"}
        ask = lambda **more: httpx.post(  # noqa: E731
            f"{address}/v1/completions", json=GREEDY | {"prompt": TEXTS * 3} | more, headers=mine
        )
        assert [c["index"] for c in ask(prompt="x", n=3, max_tokens=1).json()["choices"]] == [0, 1, 2]
        answer = ask().json()
        assert len(answer["choices"]) == 12
        assert max(most) <= 2
        assert answer["usage"]["total_tokens"] > 100
        assert ask().status_code == 429


def test_the_audit_log_tells_what_was_found_of_each_prompt(bundle, tmp_path):
    with serving(bundle, tmp_path, admin_key=ADMIN) as (address, _):
        body, admin = GREEDY | STEER | {"prompt": TEXTS, "n": 2}, {"Authorization": f"Bearer {ADMIN}"}
        told = httpx.post(f"{address}/v1/completions", json=body, headers=admin).json()["steering"]
    line = json.loads((tmp_path / "audit.jsonl").read_text().splitlines()[-1])
    assert (line["act"], line["hash"], line["ended"]) == ("steered", told["hash"], ["length"] * 8)
    assert line["prompts"] == [{"hash": told["hash"], "guards": None}] * 4
    assert not [text for text in TEXTS if text in json.dumps(line)]


def test_who_leaves_ends_all_prompts(live, tiller):
    body = GREEDY | {"prompt": TEXTS * 10, "max_tokens": 100, "stream": True}
    with halted(tiller.engine):  # nothing ends by itself
        with asking(live[0], "/v1/completions", body):
            until(lambda: sum(tiller.engine.occupancy) > 1)
        until(lambda: tiller.engine.occupancy == (0, 0))
    assert tiller.engine.failure is None


def test_the_description_has_all_four_forms(http):
    schema = http.get("/openapi.json").json()["components"]["schemas"]["CompletionRequest"]["properties"]["prompt"]
    assert [form["type"] for form in schema["anyOf"]] == ["string", "array", "array"]
    assert json.dumps(schema["anyOf"][2]).count('"string"') == 1


def test_more_tokens_at_least_than_at_most_are_refused(http):
    asked = {"model": "small", "prompt": "the bridge", "max_tokens": 4, "min_tokens": 5}
    error = http.post("/v1/completions", json=asked).json()["error"]
    assert (error["param"], error["code"]) == ("min_tokens", "invalid_value")
    assert http.post("/v1/completions", json=asked | {"min_tokens": 4}).is_success


@pytest.mark.parametrize("text", ["<|user|>hello<|end|><|assistant|>", "x<|endoftext|>"])
def test_a_chat_that_a_client_has_rendered_is_refused_with_the_ways_out_and_works_as_ids(http, tiller, text):
    error = http.post("/v1/completions", json={"model": "small", "prompt": [TEXTS[0], text]}).json()["error"]
    assert error["param"] == "prompt.1"
    assert "/v1/chat/completions" in error["message"] and "token ids" in error["message"]
    ids = tiller.engine.tokenizer(text)["input_ids"]
    assert http.post("/v1/completions", json={"model": "small", "prompt": ids, "max_tokens": 2}).is_success


@pytest.mark.parametrize("truncation", ["auto", None])
def test_a_chat_of_more_messages_than_the_context_has_tokens_is_refused_before_it_is_rendered(
    http, tiller, truncation, monkeypatch
):
    monkeypatch.setattr(tiller.engine, "encode_chat", None, raising=False)
    body = {"model": "small", "messages": [{"role": "user", "content": "a"}] * 1999, "truncation": truncation}
    if truncation:  # one turn, which is never left out
        body["messages"] = [*body["messages"][:1], *[{"role": "assistant", "content": "a"}] * 1998]
    refused = http.post("/v1/chat/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_chat_is_answered_while_every_other_thread_is_busy(http):
    busy = threading.Event()
    hold = [SEARCH.submit(busy.wait, 60) for _ in range(8)]
    try:
        body = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        assert http.post("/v1/chat/completions", json=body).status_code == 200
    finally:
        busy.set()
    assert all(h.result() for h in hold)
