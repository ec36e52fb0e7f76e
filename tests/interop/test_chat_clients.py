"""Clients that others wrote get the replies that plain HTTP gets: steered, streamed, by persona, and errors with reasons."""

import json

import httpx
import pytest

QUESTION = "what should I do this weekend"
STEERING = {"features": [{"id": "small/2", "strength": 1.2}], "scope": "all"}
PROGRAMS = ("openai_python.py", "openai.mjs", "litellm_python.py", "langchain_python.py", "llm_command.py")


@pytest.fixture(scope="module")
def expected(address):
    def reply(model="small", **more):
        asked = {
            "model": model,
            "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0,
            "max_tokens": 12,
        }
        answer = httpx.post(f"{address}/v1/chat/completions", json={**asked, **more}, timeout=60)
        return answer.raise_for_status().json()["choices"][0]["message"]["content"]

    plain = reply()
    found = {"plain": plain, "streamed": plain, "steered": reply(steering=STEERING), "persona": reply("small@bridge")}
    assert len(set(found.values())) == 3  # or equal replies would show nothing
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_client_gets_the_replies_that_plain_http_gets(program, address, expected, run_program):
    found = run_program(program, address, QUESTION, json.dumps(STEERING))
    for name, reply in expected.items():
        if name in found:  # `llm` sends no fields of its own
            assert found[name] == reply, name
    assert "nobody" in found["error"]
    assert found.get("applied", "small/2") == "small/2"
    assert {"small", "small@bridge"} <= set(found.get("models", ["small", "small@bridge"]))
    assert found.get("legacy", QUESTION).startswith(QUESTION)
