"""Context window: the oldest turns are left out, as few as possible, and never the system message or the last turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.chat.context_window import fit_chat, turn_starts
from steering.model.chat_template import EncodedChat


def encode(messages):
    """A token for each word and one for each message."""
    text = "".join(m["content"] for m in messages)
    ids = [0] * (len(text.split()) + len(messages))
    return EncodedChat(ids, (False,) * len(ids), "|".join(m["content"] for m in messages))


def chat(*lengths, system=0):
    head = [{"role": "system", "content": "s " * system}] if system else []
    roles = ("user", "assistant")
    return head + [{"role": roles[i % 2], "content": f"m{i} " * n} for i, n in enumerate(lengths)]


def test_a_chat_that_fits_stays_whole():
    messages = chat(3, 3, 3)
    assert fit_chat(encode, messages, context=20, reply=8) == (encode(messages), 0)


def test_whole_turns_are_left_out_from_the_oldest_and_no_more_than_necessary():
    messages = chat(5, 5, 5, 5, 5, system=2)
    found, left_out = fit_chat(encode, messages, context=29, reply=8)
    assert left_out == 2
    assert found == encode([messages[0], *messages[3:]])


def test_a_last_turn_that_is_too_long_alone_is_the_callers_to_refuse():
    messages = chat(2, 2, 50)
    assert fit_chat(encode, messages, context=20, reply=4) == (encode(messages), 0)


def test_a_chat_of_more_messages_than_tokens_is_not_rendered():
    lengths = []

    def counted(messages):
        lengths.append(len(messages))
        return encode(messages)

    found, left_out = fit_chat(counted, chat(*[1] * 500), context=60, reply=10)
    assert left_out == 500 - 25 + 1  # an odd number of messages: the last turn is one
    assert len(found.ids) <= 50
    assert max(lengths) <= 50


@given(st.lists(st.integers(1, 12), min_size=1, max_size=15), st.integers(0, 4), st.integers(16, 80))
def test_what_is_kept_fits_and_one_turn_more_would_not(lengths, system, context):
    messages = chat(*lengths, system=system)
    found, left_out = fit_chat(encode, messages, context=context, reply=4)
    starts = turn_starts(messages)
    head = messages[: starts[0]]
    if left_out:
        assert len(found.ids) <= context - 4
        kept = len(messages) - left_out - len(head)
        at = starts.index(len(messages) - kept)
        assert len(encode([*head, *messages[starts[at - 1] :]]).ids) > context - 4
    else:
        last = encode([*head, *messages[starts[-1] :]])
        assert len(found.ids) <= context - 4 or len(last.ids) > context - 4


def test_a_chat_that_the_assistant_begins_has_its_first_turn_there():
    messages = [{"role": r, "content": "x"} for r in ("system", "assistant", "user", "assistant", "user")]
    assert turn_starts(messages) == [1, 2, 4]
    assert turn_starts([{"role": "user", "content": "x"}]) == [0]


@pytest.mark.parametrize("reply", [None, 100])
def test_room_for_the_reply_is_kept_free(reply):
    messages = chat(*[10] * 60)
    found, _ = fit_chat(encode, messages, context=400, reply=reply)
    assert 250 < len(found.ids) <= 300


def test_a_reply_longer_than_the_last_turn_leaves_room_for_is_shorter():
    messages = chat(*[10] * 60)
    assert fit_chat(encode, messages, context=400, reply=4000) == fit_chat(encode, messages, context=400, reply=None)


LONG = [{"role": role, "content": "hello there " * 60} for _ in range(4) for role in ("user", "assistant")]
LAST = {"role": "user", "content": "how are you"}


def ask(client, messages, **more):
    body = {"model": "small", "messages": messages, "max_tokens": 12, "temperature": 0, "seed": 1, **more}
    return client.post("/v1/chat/completions", json=body)


def test_a_chat_that_is_too_long_is_refused_unless_truncation_is_asked_for(http):
    refused = ask(http, [*LONG, LAST])
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    answer = ask(http, [*LONG, LAST], truncation="auto").json()
    (warning,) = [w for w in answer["steering"]["warnings"] if w["code"] == "turns_left_out"]
    left_out = int(warning["message"].split()[2])
    assert left_out % 2 == 0
    shorter = ask(http, [*LONG[left_out:], LAST]).json()
    assert answer["choices"][0]["message"] == shorter["choices"][0]["message"]
    assert shorter["steering"]["warnings"] == []


def test_a_chat_that_fits_is_not_truncated(http):
    answer = ask(http, [LAST], truncation="auto").json()
    assert answer["steering"]["warnings"] == []


def test_an_unknown_truncation_is_named(http):
    refused = ask(http, [LAST], truncation="middle")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "truncation"
