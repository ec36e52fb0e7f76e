"""Chat templates over HTTP: a template without a place for system messages, and reasoning that is sent back."""

import json

import httpx
import pytest

from tests.support import published_templates as published
from tests.support import small_bundle
from tests.support.live_server import serving

SYSTEM = {"role": "system", "content": "Be kind."}
HELLO = {"role": "user", "content": "hello there"}


@pytest.fixture(params=["gemma2", "qwen3"])
def served(request, tmp_path):
    tokenizer = published.tokenizer(request.param)
    folder = small_bundle.write_bundle(tmp_path / "bundle")
    tokenizer.save_pretrained(folder / "model")
    small_bundle.model(len(tokenizer)).save_pretrained(folder / "model")
    with serving(folder, tmp_path / "data") as (address, _), httpx.Client(base_url=address) as http:
        yield request.param, http


def asked(http, messages, model="small"):
    body = {"model": model, "messages": messages, "max_tokens": 2, "temperature": 0}
    return http.post("/v1/chat/completions", json=body)


def test_a_system_message_and_a_personas_are_shown_and_where_they_have_no_place_that_is_said(served):
    name, http = served
    for messages, model in (([SYSTEM, HELLO], "small"), ([HELLO], "small@calm")):
        answer = asked(http, messages, model)
        assert answer.status_code == 200, json.dumps(answer.json())
        codes = [w["code"] for w in answer.json()["steering"]["warnings"]]
        assert ("system_folded" in codes) == (name == "gemma2")
    plain, folded = asked(http, [HELLO]), asked(http, [SYSTEM, HELLO])
    assert folded.json()["usage"]["prompt_tokens"] > plain.json()["usage"]["prompt_tokens"]


def test_reasoning_apart_is_given_to_the_template_and_must_be_text(served):
    name, http = served
    reply = {"role": "assistant", "content": "Hello", "reasoning_content": "Let me see."}
    chat = [HELLO, reply]
    told = asked(http, chat) if name == "qwen3" else None
    assert told is None or told.status_code == 200
    error = asked(http, [HELLO, {**reply, "reasoning_content": 5}, HELLO]).json()["error"]
    assert error["param"] == "messages.1.reasoning_content"
    assert asked(http, [HELLO, {**reply, "reasoning_content": None}, HELLO]).status_code == 200
