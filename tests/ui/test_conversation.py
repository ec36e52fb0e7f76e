"""What the browser sends is checked before anything is asked."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from tiller import AsyncTiller, TillerError
from tiller.models import Chunk
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


def told(value, api=None):
    """All that the page is told; in a thread, since the browser's tests leave a loop running in this one."""

    async def listen():
        return [news async for news in talk(api or AsyncTiller("http://127.0.0.1:9/v1", trust_env=False), value)]

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


def test_what_was_applied_is_told_from_the_beginning_and_tokens_with_the_end():
    reply = Reply()
    token = {"token": "hi", "logprob": -0.10001, "top_logprobs": [{"token": "ho", "logprob": -2.0}]}
    choice = {"delta": {"content": "hi"}, "logprobs": {"content": [token]}}
    reply.take(Chunk.from_json({"choices": [choice], "steering": {"hash": "s"}}))
    assert reply.told() == {"text": "hi", "steering": {"hash": "s"}}
    reply.take(Chunk.from_json({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
    reply.ended = True
    assert reply.told() == {
        "text": "hi",
        "steering": {"hash": "s"},
        "tokens": [{"token": "hi", "logprob": -0.1, "top": [("ho", -2.0)]}],
        "ended": True,
    }


class Breaking:
    """An API whose steered reply breaks off, with an error or with nothing, while the default one goes on."""

    def __init__(self, error=None, *, first=True):
        self._error, self._first = error, first

    async def model(self):
        return "small"

    def sending(self, **headers):
        return self

    async def stream(self, *, steering=None, **body):
        if steering is None:
            yield Chunk.from_json({"choices": [{"delta": {"content": "good"}}]})
            await asyncio.sleep(60)
        await asyncio.sleep(0.1)
        if self._first:
            yield Chunk.from_json({"choices": [{"delta": {"content": "ar"}}], "steering": {"hash": "s"}})
        else:
            yield Chunk.from_json({"choices": [{"delta": {"content": "ar"}}]})
        if self._error:
            raise self._error


@pytest.mark.parametrize("error", [None, TillerError("the server cannot be reached; is it still running?")])
def test_replies_that_break_off_say_so_on_both_sides_and_keep_what_was_told(error):
    *_, last = told(FORM, Breaking(error))
    assert last["done"]
    for side, text in (("steered", "ar"), ("default", "good")):
        assert last[side]["text"] == text
        assert last[side]["problem"].startswith("The reply broke off here: the server")
    assert last["steered"]["steering"] == {"hash": "s"}


def test_nothing_is_said_of_steering_that_was_never_told():
    *_, last = told(FORM, Breaking(first=False))
    assert "steering" not in last["steered"]
    assert "problem" in last["steered"]


def test_tokens_that_make_one_character_together_join_to_the_text():
    reply = Reply(ended=True)
    for part in ([0xC3], [0xA4], [0x68]):
        token = {"token": "�", "logprob": -1, "bytes": part}
        reply.take(Chunk.from_json({"choices": [{"delta": {}, "logprobs": {"content": [token]}}]}))
    assert [t["token"] for t in reply.told()["tokens"]] == ["", "ä", "h"]
