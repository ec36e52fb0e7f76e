"""`/v1/compare`: variants of one question are generated together, with one seed, each labelled in the stream."""

import json

import httpx
import pytest

from server.api.sse import format_event
from server.engines.base import EngineFailed
from tests.server.api.test_failures import every_word, holding, stop_when_running
from tests.support.halted_engine import halted
from tests.support.live_server import asking, serving
from tests.support.waiting import until

__all__ = ["every_word"]

ASK = [{"role": "user", "content": "hello there"}]
FIRST = {"name": "default", "steering": None}
SECOND = {"name": "bridges", "steering": {"features": [{"id": "small/1", "strength": 0.9}]}}
THIRD = {"name": "calm", "model": "small@calm"}
BODY = {"model": "small", "messages": ASK, "max_tokens": 12, "ignore_eos": True, "temperature": 1.2, "seed": 7}


def compare(http, *variants, **rest):
    return http.post("/v1/steering/compare", json={**BODY, "variants": list(variants), **rest})


def events_of(text):
    lines = [line for line in text.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def said(events, i):
    own = [e for e in events if e["index"] == i]
    return "".join(e["choices"][0]["delta"].get("content", "") for e in own)


def test_each_variant_is_the_reply_that_it_would_be_alone(http):
    answer = compare(http, FIRST, SECOND, THIRD)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["object"], answer.json()["seed"]) == ("comparison", 7)
    for i, (found, variant) in enumerate(zip(answer.json()["data"], (FIRST, SECOND, THIRD), strict=True)):
        assert (found["variant"], found["index"], found["object"]) == (variant["name"], i, "chat.completion")
        alone = BODY | {"model": variant.get("model", "small"), "steering": variant.get("steering")}
        plain = http.post("/v1/chat/completions", json=alone).json()
        assert found["choices"] == plain["choices"]
        assert found["steering"] == plain["steering"]
        assert found["usage"]["completion_tokens"] == 12
    told = [found["steering"] for found in answer.json()["data"]]
    assert answer.headers["x-tiller-steered"] == "true"
    assert answer.headers["x-tiller-steering"].split(", ") == [t["hash"] for t in told]
    assert (answer.headers["x-tiller-revision"], answer.headers["x-tiller-preset"]) == (told[0]["revision"], "calm")
    assert compare(http, FIRST).headers["x-tiller-steered"] == "false"


def test_a_stream_says_the_same_and_each_variant_has_its_head_and_its_end(http):
    judged = {**SECOND, "steering": {**SECOND["steering"], "return": ["applied", "coherence"]}}
    whole = compare(http, FIRST, judged).json()["data"]
    events = events_of(compare(http, FIRST, judged, stream=True).text)
    for i, name in enumerate(("default", "bridges")):
        own = [e for e in events if e["index"] == i]
        assert {e["variant"] for e in own} == {name}
        assert {e["object"] for e in own} == {"chat.completion.chunk"}
        assert own[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert {"applied", "hash", "warnings", "load", "predicted"} <= own[0]["steering"].keys()
        assert own[0]["seed"] == 7
        assert [e["choices"][0]["finish_reason"] for e in own] == [None] * (len(own) - 1) + ["length"]
        assert said(events, i) == whole[i]["choices"][0]["message"]["content"]
    last = [e for e in events if e["index"] == 1][-1]
    assert last["steering"]["coherence"] == whole[1]["steering"]["coherence"]


def test_variants_speak_at_the_same_time(http):
    order = [e["index"] for e in events_of(compare(http, FIRST, SECOND, stream=True, max_tokens=300).text)]
    assert order.index(1) < len(order) - 1 - order[::-1].index(0)


def test_without_a_seed_one_is_drawn_for_all_and_told(http):
    found = compare(http, FIRST, {"name": "again"}, seed=None).json()
    assert found["data"][0]["choices"] == found["data"][1]["choices"]
    assert isinstance(found["seed"], int)


def test_usage_comes_for_each_variant_when_asked(http):
    events = events_of(compare(http, FIRST, SECOND, stream=True, stream_options={"include_usage": True}).text)
    assert [e["usage"]["completion_tokens"] for e in events if e["usage"]] == [12, 12]


BAD = {
    "unknown feature": (
        [FIRST, {"name": "b", "steering": {"features": [{"id": "small/999"}]}}],
        "variants.1.steering.features.0.id",
    ),
    "unknown preset": ([{"name": "a", "steering": {"preset": "nobody"}}], "variants.0.steering.preset"),
    "unknown model": ([FIRST, {"name": "b", "model": "small@nobody"}], "variants.1.model"),
    "typo": ([FIRST, {"name": "b", "steering": {"featurs": []}}], "variants.1.steering.featurs"),
    "typo in a variant": ([{"name": "b", "sterring": None}], "variants.0.sterring"),
    "out of policy": (
        [FIRST, SECOND, {"name": "c", "steering": {"features": [{"id": "small/1", "strength": 1e9}]}}],
        "variants.2.steering.features",
    ),
    "one name twice": ([FIRST, SECOND, {"name": "default"}], "variants.2.name"),
    "no name": ([{"steering": None}], "variants.0.name"),
    "none": ([], "variants"),
    "nine": ([{"name": str(i)} for i in range(9)], "variants"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_variant_is_refused_first_and_names_it(http, name, stream):
    variants, param = BAD[name]
    answer = compare(http, *variants, stream=stream)
    assert answer.status_code == (404 if name == "unknown model" else 400), answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "gpt-4"}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "hello " * 700}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"steering": {"preset": "calm"}}, "steering"),
        ({"varants": []}, "varants"),
        ({"variants": "all"}, "variants"),
    ],
)
def test_what_all_variants_share_is_named_as_in_a_chat(http, change, param):
    answer = compare(http, FIRST, SECOND, **change)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param


@pytest.fixture
def own(bundle, tmp_path):
    """A server of one's own, to break: two replies at a time, four waiting."""
    with (
        serving(bundle, tmp_path, live=2, queue=4) as (address, app),
        httpx.Client(base_url=address) as http,
    ):
        yield http, app.state.served_model


@pytest.mark.parametrize("stream", [True, False])
def test_more_variants_than_can_wait_are_429_and_leave_nothing_behind(own, stream):
    http, tiller = own
    answer = compare(http, *({"name": str(i)} for i in range(8)), max_tokens=300, stream=stream)
    assert answer.status_code == 429
    assert answer.json()["error"]["param"].startswith("variants.")
    until(lambda: tiller.engine.occupancy == (0, 0))


def test_variants_wait_for_each_other_where_there_is_no_room_for_all(own):
    http, _ = own
    events = events_of(compare(http, FIRST, SECOND, THIRD, stream=True).text)
    assert {e["index"] for e in events} == {0, 1, 2}


def test_a_variant_that_breaks_is_told_by_name_and_the_others_go_on(own, every_word):
    """The engine drops one of two replies, as a worker would that fails on it."""
    http, tiller = own
    events, ended, held = [], False, holding(tiller.engine, after=200)
    body = {**BODY, "variants": [FIRST, SECOND], "stream": True, "max_tokens": 450, "ignore_eos": True}
    with http.stream("POST", "/v1/steering/compare", json=body) as answer:
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line:
                events.append(json.loads(line.removeprefix("data: ")))
            if len(events) == 3 and line:
                steered = next(s for s in tiller.engine._batch.running if s.request.fingerprint != "s_0")
                to = steered.listener
                to.loop.call_soon_threadsafe(to.put, EngineFailed("this one broke"))
                held.close()
    (error,) = [e for e in events if "error" in e]
    assert (error["variant"], error["index"]) == ("bridges", 1)
    assert error["error"]["param"] == "variants.1"
    assert "'bridges'" in error["error"]["message"]
    assert [e["choices"][0]["finish_reason"] for e in events if e["index"] == 0][-1] == "length"
    assert ended


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_that_stops_ends_all_variants_clearly(own, stream):
    http, tiller = own
    held = holding(tiller.engine)

    stop_when_running(tiller.engine, held, 2)
    answer = compare(http, FIRST, SECOND, max_tokens=400, stream=stream)
    if answer.status_code == 200:
        assert {e["error"]["code"] for e in events_of(answer.text) if "error" in e} == {"engine_failed"}
    else:
        assert answer.json()["error"]["code"] == "engine_failed"
        assert answer.headers["x-should-retry"] == "false"


def test_an_event_is_one_line_for_every_reader():
    said = {"content": "a\u2028b\u2029c\x85d\r\n\x1c é “”"}
    (line,) = format_event(said).split("\n\n")[:1]
    assert line.splitlines() == [line]
    assert "é “”" in line
    assert json.loads(line.removeprefix("data: ")) == said


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_stops_all_variants(live, tiller, stream):
    variants = [{"name": str(i), "steering": SECOND["steering"]} for i in range(8)]
    body = {**BODY, "variants": variants, "max_tokens": 400, "stream": stream}
    with halted(tiller.engine):  # nothing ends by itself
        with asking(live[0], "/v1/steering/compare", body):
            until(lambda: sum(tiller.engine.occupancy) == 8)
        until(lambda: tiller.engine.occupancy == (0, 0))
    assert tiller.engine.failure is None
