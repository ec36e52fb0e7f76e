"""Both Python clients against a real server: same methods, same values, one error class."""

import asyncio
import importlib
import inspect
import json
import sys

import httpx
import pydantic
import pytest

from tests.support.halted_engine import halted
from tests.support.waiting import until
from tiller import AsyncTiller, Tiller, TillerError

EVENTS = {"Content-Type": "text/event-stream"}
ASKED = {"model": "small", "messages": [{"role": "user", "content": "hello there"}], "seed": 7, "max_tokens": 8}
BRIDGE = {"features": [{"id": "small/1", "strength": 0.8}]}


def public(kind):
    return {n: f for n, f in inspect.getmembers(kind, inspect.isfunction) if not n.startswith("_")}


def test_both_clients_have_the_same_methods_with_the_same_parameters():
    one, other = public(Tiller), public(AsyncTiller)
    assert one.keys() == other.keys()
    for name in one:
        assert inspect.signature(one[name]).parameters == inspect.signature(other[name]).parameters, name


def test_a_reply_tells_its_text_and_what_steered_it(ask):
    reply = ask("chat", **ASKED, steering=BRIDGE, temperature=0)
    assert reply.text == reply.raw["choices"][0]["message"]["content"]
    assert (reply.steering.applied[0].id, reply.steering.applied[0].dose) == ("small/1", 0.8)
    assert reply.finish_reason in ("stop", "length")
    assert reply.usage.completion_tokens <= 8


def test_a_stream_says_what_the_whole_reply_says(ask):
    chunks = ask("stream", **ASKED, steering=BRIDGE, stream_options={"include_usage": True})
    assert "".join(c.text for c in chunks) == ask("chat", **ASKED, steering=BRIDGE).text
    assert chunks[0].steering.applied[0].label == "bridges"
    assert [c.finish_reason for c in chunks if c.finish_reason] == ["length"]
    assert chunks[-1].usage.completion_tokens == 8


def test_values_are_frozen(ask):
    reply = ask("chat", **ASKED, steering=BRIDGE)
    with pytest.raises(AttributeError):
        reply.text = "other"
    with pytest.raises(pydantic.ValidationError):
        reply.steering.hash = "other"


def test_variants_are_compared_with_one_seed(ask):
    asked = {"model": "small", "max_tokens": 8, "seed": 7}
    variants = [{"name": "default", "steering": None}, {"name": "bridge", "steering": BRIDGE}]
    compared = ask("compare", ASKED["messages"], variants, **asked)
    assert compared.seed == 7
    assert list(compared.replies) == ["default", "bridge"]
    assert compared.replies["default"].text == ask("chat", **ASKED).text
    assert compared.replies["bridge"].steering.applied[0].id == "small/1"


def test_features_come_page_by_page(ask):
    assert [f.id for f in ask("features", limit=20)] == [f.id for f in ask("features", limit=500)]
    assert len(ask("features", limit=20)) == 48
    assert [f.label for f in ask("features", "bridges")] == ["bridges"]
    assert ask("features", "the bridge is red", mode="prompt", limit=5)[0].score is not None


def test_one_feature_is_told_with_its_neighbours(ask):
    found = ask("feature", "small/1")
    assert (found.label, found.dose, found.sweet_spot.high) == ("bridges", 6.0, 1.0)
    assert found.similar


def test_a_text_is_analysed(ask):
    found = ask("analyze", "the bridge is red", top_k=2, limit=3)
    assert "".join(t.text for t in found.tokens) == "the bridge is red"
    assert len(found.features) == 3


def test_a_preset_is_saved_read_and_guarded_by_its_version(ask, kind):
    name = f"mine-{kind.__name__.lower()}"
    saved = ask("save_preset", {"id": name, "name": "Mine", "steering": BRIDGE})
    again = ask("save_preset", saved.model_copy(update={"name": "Ours"}), version=saved.version)
    assert (again.name, again.version) == ("Ours", saved.version + 1)
    assert name in [p.id for p in ask("presets")]
    with pytest.raises(TillerError, match="read it again") as refused:
        ask("save_preset", saved, version=saved.version)
    assert (refused.value.status, refused.value.code) == (412, "version_conflict")


def test_a_suggestion_can_be_put_into_a_chat(ask, kind):
    slider = {"id": "small/1", "label": "bridges", "strength": 0.7, "mode": "add", "unit": "dose", "why": "it says so"}
    told = httpx.MockTransport(lambda _: httpx.Response(200, json={"object": "suggestion", "features": [slider]}))
    found = kind("http://there", transport=told)("suggest", "more about bridges", limit=1)
    assert found.features[0].why == "it says so"
    assert ask("chat", **ASKED, steering=found.steering).steering.applied[0].dose == 0.7


def test_limits_and_the_model_are_told(ask):
    assert ask("model") == "small"
    assert ask("limits").steering["variants"] == 8


def test_a_job_is_begun_found_cancelled_and_followed(ask):
    job = ask("start", "map", {})
    assert ask("job", job.id) == job
    assert job.id in [j.id for j in ask("jobs", limit=1)]
    assert ask("cancel", job.id).state == "cancelled"
    assert [(e.id, e.kind, e.data["state"]) for e in ask("follow", job)] == [(1, "state", "queued")]


def test_a_refusal_is_one_error_that_names_its_parameter(ask):
    wrong = {"features": [{"id": "small/999"}]}
    for method in ("chat", "stream"):
        with pytest.raises(TillerError, match="small/999") as refused:
            ask(method, **ASKED, steering=wrong)
        assert refused.value.status == 400
        assert refused.value.param == "steering.features.0.id"


def test_an_address_with_another_server_is_told(kind):
    strange = httpx.MockTransport(lambda _: httpx.Response(200, text="<html>"))
    with pytest.raises(TillerError, match="is a Tiller server"):
        kind("http://there", transport=strange)("model")
    broken = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>"))
    with pytest.raises(TillerError, match="answered 502") as refused:
        kind("http://there", transport=broken)("model")
    assert refused.value.status == 502


def test_a_server_that_is_gone_is_told(kind):
    with pytest.raises(TillerError, match="cannot be reached") as refused:
        kind("http://127.0.0.1:9", trust_env=False)("model")
    assert refused.value.status is None


def test_the_key_and_the_address_are_sent_as_openai_has_them(kind):
    seen = []

    def answer(request):
        seen.append((str(request.url), request.headers["authorization"]))
        return httpx.Response(200, json={"data": [{"id": "m"}]})

    for base in ("http://there", "http://there/", "http://there/v1", "http://there/v1/"):
        assert kind(base, key="sk-1", transport=httpx.MockTransport(answer))("model") == "m"
    assert set(seen) == {("http://there/v1/models", "Bearer sk-1")}


def test_a_reply_that_breaks_is_an_error_after_what_was_said(kind):
    begun = {"choices": [{"index": 0, "delta": {"content": "hel"}, "finish_reason": None}]}
    broke = {"error": {"message": "the engine broke", "code": "engine_failed", "param": None}}
    body = "".join(f"data: {json.dumps(x)}\n\n" for x in (begun, broke))
    with pytest.raises(TillerError, match="the engine broke") as refused:
        kind("http://there", transport=httpx.MockTransport(lambda _: httpx.Response(200, text=body, headers=EVENTS)))(
            "stream", **ASKED
        )
    assert (refused.value.status, refused.value.code) == (None, "engine_failed")


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body whose connection breaks at its end."""

    def __init__(self, text):
        self.text = text

    def __iter__(self):
        yield self.text.encode()
        raise httpx.ReadError("gone")

    async def __aiter__(self):
        yield self.text.encode()
        raise httpx.ReadError("gone")


def test_a_job_is_followed_over_breaks_without_a_gap(kind):
    asked_after = []

    def answer(request):
        last = int(request.headers["last-event-id"])
        asked_after.append(last)
        event = f': ping\n\nid: {last + 1}\nevent: metric\ndata: {{"n": {last + 1}}}\n\n'
        cut = f"id: {last + 2}\nevent: metric\nda"
        return (
            httpx.Response(200, text=event, headers=EVENTS)
            if last == 2
            else httpx.Response(200, headers=EVENTS, stream=Broken(event + cut))
        )

    events = kind("http://there", transport=httpx.MockTransport(answer))("follow", "job_1")
    assert [(e.id, e.data["n"]) for e in events] == [(1, 1), (2, 2), (3, 3)]
    assert asked_after == [0, 1, 2]


def test_following_gives_up_on_a_refusal_at_once(kind):
    asked = []

    def answer(request):
        asked.append(request.url)
        return httpx.Response(404, json={"error": {"message": "no job", "code": "not_found", "param": None}})

    with pytest.raises(TillerError, match="no job"):
        kind("http://there", transport=httpx.MockTransport(answer))("follow", "job_1")
    assert len(asked) == 1


def test_closing_a_stream_ends_the_reply(live):
    address, app = live
    engine, long = app.state.served_model.engine, {**ASKED, "max_tokens": 400, "ignore_eos": True}

    async def awaited():
        async with AsyncTiller(address) as tiller:
            chunks = tiller.stream(**long)
            await anext(chunks)
            await chunks.aclose()

    with halted(engine, after=100), Tiller(address) as tiller:  # it does not end by itself
        chunks = tiller.stream(**long)
        next(chunks)
        assert engine.occupancy[0] == 1
        chunks.close()
        until(lambda: engine.occupancy[0] == 0)
    with halted(engine, after=100):
        asyncio.run(awaited())
        until(lambda: engine.occupancy[0] == 0)


def test_the_packages_former_name_still_works_and_warns():
    sys.modules.pop("client", None)
    with pytest.warns(DeprecationWarning, match="from tiller import Tiller"):
        former = importlib.import_module("client")
    assert former.Tiller is Tiller
    assert former.AsyncTiller is AsyncTiller


def test_a_server_on_this_machine_is_reached_whatever_proxy_the_environment_names(address, kind, monkeypatch):
    for name in ("ALL_PROXY", "HTTP_PROXY", "all_proxy", "http_proxy"):
        monkeypatch.setenv(name, "gopher://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/missing")
    assert kind(address)("presets")


def test_a_proxy_that_cannot_be_used_is_named(kind, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:9")
    with pytest.raises(TillerError, match=r"gopher.*ALL_PROXY"):
        kind("http://tiller.example")("presets")
