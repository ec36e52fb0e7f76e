"""A reply that continues the assistant's last message: only the continuation comes back, and the message counts as the assistant's."""

import asyncio

import pytest

from server.chat.prepare import prepare_chat
from server.schemas.generation import ChatRequest

BEGUN = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the ships are"}]
ASKED = {"model": "small", "messages": BEGUN, "continue_final_message": True, "add_generation_prompt": False}
GREEDY = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}


def ask(http, path="/v1/chat/completions", **more):
    answer = http.post(path, json={**ASKED, **GREEDY, **more})
    assert answer.status_code == 200, answer.json()
    return answer.json()


def refused(http, **more):
    answer = http.post("/v1/chat/completions", json={**ASKED, **GREEDY, **more})
    assert answer.status_code == 400
    return answer.json()["error"]


@pytest.fixture
def begun(tiller):
    return tiller.engine.encode_chat(BEGUN, continue_final_message=True)


@pytest.mark.parametrize("steering", [None, {"features": [{"id": "small/1", "strength": 0.9}], "scope": "all"}])
def test_reply_is_what_follows_the_messages_tokens(http, begun, steering):
    answer = ask(http, steering=steering)
    body = {"model": "small", "prompt": [*begun.ids], "steering": steering, **GREEDY}
    assert (
        answer["choices"][0]["message"]["content"]
        == http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    )
    assert answer["usage"]["prompt_tokens"] == len(begun.ids)
    assert begun.text.endswith("<|assistant|>the ships are")


def test_its_tokens_are_the_assistants(tiller, begun):
    steering = {"features": [{"id": "small/1", "strength": 0.9}], "scope": "assistant"}
    reply = asyncio.run(prepare_chat(tiller, ChatRequest.model_validate({**ASKED, "steering": steering})))
    generation = reply.parts[0].generation
    mine = tiller.engine.decode([i for i, s in zip(generation.ids, generation.steered, strict=True) if s])
    assert generation.ids == begun.ids and mine == "the ships are"
    assert generation.text_from == begun.continued


def test_prompt_alone_would_begin_another_message(http):
    new = ask(http, continue_final_message=False, add_generation_prompt=True)
    assert new["usage"]["prompt_tokens"] > ask(http)["usage"]["prompt_tokens"]


def test_add_generation_prompt_may_be_left_out(http):
    short = {k: v for k, v in ASKED.items() if k != "add_generation_prompt"}
    answer = http.post("/v1/chat/completions", json={**short, **GREEDY}).json()
    assert answer["choices"] == ask(http)["choices"]


def test_oldest_turns_are_left_out_and_the_message_stays(http):
    old = [{"role": role, "content": "hello there " * 60} for _ in range(4) for role in ("user", "assistant")]
    answer = ask(http, messages=[*old, *BEGUN], truncation="auto")
    assert [w["code"] for w in answer["steering"]["warnings"]] == ["turns_left_out"]
    assert answer["choices"][0]["message"]["content"]


def test_variants_of_a_comparison_continue_it_too(http):
    answer = ask(
        http, "/v1/steering/compare", variants=[{"name": "a"}, {"name": "b", "steering": {"preset": "bridge"}}]
    )
    assert answer["data"][0]["choices"][0]["message"] == ask(http)["choices"][0]["message"]


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"messages": BEGUN[:1]}, "messages.0.role", "continues an assistant's message, not one of 'user'"),
        ({"add_generation_prompt": True}, "continue_final_message", "cannot both be true"),
        ({"continue_final_message": False}, "add_generation_prompt", "only be false with continue_final_message"),
        ({"messages": [*BEGUN[:1], {"role": "assistant", "content": None}]}, "messages", "no text to continue"),
        ({"messages": [*BEGUN[:1], {"role": "assistant", "content": "a<|end|>b"}]}, "messages.1.content", "marker"),
    ],
)
def test_what_cannot_be_continued_is_refused_with_the_reason(http, change, param, says):
    error = refused(http, **change)
    assert error["param"] == param
    assert says in error["message"]


def test_conversation_that_is_kept_has_one_message_of_both_parts():
    assert ChatRequest.model_validate(ASKED).chat_with(" in") == [
        BEGUN[0],
        {"role": "assistant", "content": "the ships are in"},
    ]
    fresh = ChatRequest.model_validate({"model": "small", "messages": BEGUN[:1]})
    assert fresh.chat_with("Hi.") == [*BEGUN[:1], {"role": "assistant", "content": "Hi."}]
    assert fresh.chat_with("") == BEGUN[:1]
