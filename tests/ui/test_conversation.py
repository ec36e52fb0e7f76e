"""What the browser sends is checked before anything is asked."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from client import AsyncTiller
from client.values import Chunk
from ui.conversation import Reply, read, talk

ROW = {"id": "small/1", "strength": 0.5, "mode": "add"}
FORM = {"id": "t1", "message": "and now?", "steering": {"features": [ROW]}}
HISTORY = [{"question": "hello", "default": "good day", "steered": "arr"}, {"question": "so", "default": None, "steered": "arr!"}]  # fmt: skip


def test_sliders_are_the_apis_steering():
    steering = read(FORM).steering
    assert steering is not None
    assert steering.model_dump()["features"] == (ROW,)
    assert (steering.unit, steering.scale, steering.scope) == ("dose", 1.0, "assistant")


def test_each_side_is_asked_after_its_own_history():
    form = read({**FORM, "history": HISTORY, "system": "Be brief."})
    assert [m["content"] for m in form.messages("steered")] == ["Be brief.", "hello", "arr", "so", "arr!", "and now?"]
    assert [m["content"] for m in form.messages("default")] == ["Be brief.", "hello", "good day", "and now?"]


def test_empty_fields_are_the_servers_choice_and_whole_numbers_are_whole():
    drawn = read({**FORM, "sampling": {"temperature": 0.5, "max_tokens": 160.0, "top_p": None}}).drawn()
    assert drawn == {"temperature": 0.5, "max_tokens": 160}
    assert isinstance(drawn["max_tokens"], int)


@pytest.mark.parametrize(
    "wrong",
    [
        {"message": ""},
        {"message": None},
        {"id": ""},
        {"steering": {"features": [{**ROW, "strength": float("nan")}]}},
        {"steering": {"features": [{**ROW, "mode": "explode"}]}},
        {"steering": {"features": [ROW] * 33}},
        {"sampling": {"temperature": "hot"}},
        {"history": "long"},
    ],
)
def test_rubbish_is_refused_with_a_sentence(wrong):
    with pytest.raises(ValueError, match="the message cannot be read"):
        read({**FORM, **wrong})


def told(value):
    """All that the page is told; in a thread, since the browser's tests leave a loop running in this one."""

    async def listen():
        return [news async for news in talk(AsyncTiller("http://127.0.0.1:9/v1", trust_env=False), value)]

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, listen()).result(30)


@pytest.mark.parametrize("value", [None, "rubbish", {}, {"id": 3}])
def test_what_is_no_form_is_told_as_a_problem(value):
    news = told(value)
    assert len(news) == 1
    assert "cannot be read" in news[0]["problem"]


def test_a_server_that_is_gone_is_told_as_a_problem():
    news = told(FORM)
    assert news[0]["id"] == "t1"
    assert "cannot be reached" in news[0]["problem"]


def test_tokens_and_what_was_applied_are_told_with_the_end():
    reply = Reply()
    token = {"token": "hi", "logprob": -0.10001, "top_logprobs": [{"token": "ho", "logprob": -2.0}]}
    choice = {"delta": {"content": "hi"}, "logprobs": {"content": [token]}}
    reply.take(Chunk.of({"choices": [choice], "steering": {"hash": "s"}}))
    assert reply.told() == {"text": "hi"}
    reply.ended = True
    assert reply.told() == {
        "text": "hi",
        "steering": {"hash": "s"},
        "tokens": [{"token": "hi", "logprob": -0.1, "top": [("ho", -2.0)]}],
    }


def test_tokens_that_make_one_character_together_join_to_the_text():
    reply = Reply(ended=True)
    for part in ([0xC3], [0xA4], [0x68]):
        token = {"token": "�", "logprob": -1, "bytes": part}
        reply.take(Chunk.of({"choices": [{"delta": {}, "logprobs": {"content": [token]}}]}))
    assert [t["token"] for t in reply.told()["tokens"]] == ["", "ä", "h"]
