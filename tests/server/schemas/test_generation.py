"""Generation requests: messages as clients send them back."""

import pytest

from server.errors import ApiError
from server.schemas.generation import to_messages

ASSISTANTS = {
    "nothing": ({"content": None}, ""),
    "no content": ({}, ""),
    "a refusal": ({"content": None, "refusal": "I cannot."}, "I cannot."),
    "no refusal": ({"content": "Hi.", "refusal": None, "tool_calls": None, "function_call": None}, "Hi."),
    "reasoning alone": ({"content": None, "reasoning_content": "Hm."}, ""),
    "a part that is a refusal": ({"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
    "both kinds of parts": (
        {"content": [{"type": "text", "text": "Hm. "}, {"type": "refusal", "refusal": "No."}]},
        "Hm. No.",
    ),
}


@pytest.mark.parametrize("name", ASSISTANTS)
def test_an_assistants_message_is_read_as_clients_send_it_back(name):
    message, said = ASSISTANTS[name]
    assert to_messages([{"role": "assistant", **message}])[0]["content"] == said


@pytest.mark.parametrize("role", ["user", "system"])
@pytest.mark.parametrize("content", [None, [{"type": "refusal", "refusal": "No."}]])
def test_others_say_something(role, content):
    with pytest.raises(ApiError) as caught:
        to_messages([{"role": role, "content": content}])
    assert caught.value.status == 400
    assert caught.value.param.startswith("messages.0.content")
    assert "assistant's may be null" in caught.value.message or "'refusal' is not supported" in caught.value.message


@pytest.mark.parametrize("calls", [{"tool_calls": [{"id": "x"}]}, {"function_call": {"name": "f"}}])
def test_calls_of_tools_are_refused_also_beside_null(calls):
    with pytest.raises(ApiError) as caught:
        to_messages([{"role": "assistant", "content": None, **calls}])
    assert caught.value.code == "unsupported_parameter"
