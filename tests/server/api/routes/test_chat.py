"""Chat completions: the official OpenAI client works against this server as against OpenAI's."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.support.halted_engine import halted
from tests.support.live_server import asking
from tests.support.waiting import until

ASK = [{"role": "user", "content": "hello there"}]
STEER = {"steering": {"features": [{"id": "small/1", "strength": 0.9}]}}
GREEDY = {"temperature": 0, "max_tokens": 16, "extra_body": {"ignore_eos": True}}


def greedy(steering=None, **rest):
    return {**GREEDY, "extra_body": {"ignore_eos": True, **(steering or {})}, **rest}


def say(client, **rest):
    return client.chat.completions.create(**{"model": "small", "messages": ASK, **greedy(), **rest})


def test_reply_has_openais_shape(client):
    reply = say(client)
    assert reply.id.startswith("chatcmpl-")
    assert reply.object == "chat.completion"
    assert reply.model == "small"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 16
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 16
    assert reply.system_fingerprint.startswith("fp_")
    assert reply._request_id.startswith("req_")


def test_stream_says_what_the_plain_reply_says(client):
    chunks = list(say(client, stream=True, stream_options={"include_usage": True}))
    first, *middle, last, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert first.choices[0].delta.content == ""
    assert "".join(c.choices[0].delta.content for c in middle) == say(client).choices[0].message.content
    assert [c.choices[0].finish_reason for c in (first, *middle)] == [None] * (len(middle) + 1)
    assert last.choices[0].finish_reason == "length"
    assert usage.choices == []
    assert usage.usage.completion_tokens == 16
    assert {c.usage for c in (first, *middle, last)} == {None}


def test_stream_ends_with_done_and_no_empty_finish_reason(http):
    body = {"model": "small", "messages": ASK, "max_tokens": 4, "stream": True}
    lines = [line for line in http.post("/v1/chat/completions", json=body).text.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert all("usage" not in e for e in events)
    assert [e["choices"][0]["finish_reason"] for e in events].count(None) == len(events) - 1


def test_steered_reply_differs_and_echoes_what_was_applied(client):
    plain, steered = say(client), say(client, **greedy(STEER))
    assert plain.choices[0].message.content != steered.choices[0].message.content
    assert plain.model_extra["steering"]["hash"] == "s_0"
    applied = steered.model_extra["steering"]["applied"][0]
    assert applied["label"] == "bridges"
    assert (applied["mode"], applied["dose"], applied["raw"], applied["layer"]) == ("add", 0.9, 5.4, 1)
    assert applied["in_sweet_spot"] is True


def test_stream_echoes_the_steering_in_its_first_chunk(client):
    first = next(iter(say(client, stream=True, **greedy(STEER))))
    assert first.model_extra["steering"]["applied"][0]["id"] == "small/1"


@pytest.mark.parametrize(
    "nothing",
    [None, {}, {"features": []}, {"features": [{"id": "small/1", "strength": 0}]}, {"preset": "bridge", "scale": 0}],
)
def test_empty_steering_is_no_steering(client, nothing):
    reply = say(client, **greedy({"steering": nothing}))
    assert reply.choices[0].message.content == say(client).choices[0].message.content
    assert reply.model_extra["steering"]["hash"] == "s_0"


def test_preset_is_a_model_id_and_a_field(client):
    by_model = say(client, model="small@bridge")
    by_field = say(client, **greedy({"steering": {"preset": "bridge"}}))
    by_hand = say(client, **greedy({"steering": {"features": [{"id": "small/1", "strength": 0.8}]}}))
    assert len({r.choices[0].message.content for r in (by_model, by_field, by_hand)}) == 1
    assert len({r.model_extra["steering"]["hash"] for r in (by_model, by_field, by_hand)}) == 1
    assert by_model.model == "small@bridge"


def test_explicit_entries_override_the_preset(client):
    reply = say(
        client, model="small@bridge", **greedy({"steering": {"features": [{"id": "small/1", "strength": 0.1}]}})
    )
    assert [a["strength"] for a in reply.model_extra["steering"]["applied"]] == [0.1]


def test_preset_brings_its_system_prompt_unless_there_is_one(client):
    own = [{"role": "system", "content": "Be calm."}, *ASK]
    assert (
        say(client, model="small@calm").usage.prompt_tokens
        == say(client, model="small@calm", messages=own).usage.prompt_tokens
    )
    assert say(client).usage.prompt_tokens < say(client, model="small@calm").usage.prompt_tokens


def test_concurrent_mixed_specs_equal_their_solo_replies(client):
    wanted = [
        greedy({"steering": {"features": [{"id": f"small/{i}", "strength": s}], "scope": scope}})
        for i, s, scope in [(1, 0.9, "assistant"), (2, -0.9, "all"), (3, 0.7, "generated"), (1, 0.0, "all")] * 2
    ]
    alone = [say(client, **w).choices[0].message.content for w in wanted]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda w: say(client, **w).choices[0].message.content, wanted))
    assert together == alone
    assert len(set(alone)) == 4


def test_n_choices_have_their_index_and_their_seed(client):
    sampled = {"temperature": 1.5, "seed": 5}
    reply = say(client, n=3, **sampled)
    assert [c.index for c in reply.choices] == [0, 1, 2]
    assert reply.choices[1].message.content == say(client, temperature=1.5, seed=6).choices[0].message.content
    texts = ["", "", ""]
    for chunk in say(client, n=3, stream=True, **sampled):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [c.message.content for c in reply.choices]


def test_seed_fixes_the_reply(client):
    texts = [say(client, temperature=1.5, seed=s).choices[0].message.content for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("as_list", [True, False])
def test_stop_text_is_not_returned(client, as_list):
    whole = say(client).choices[0].message.content
    stop = whole[4:6]
    reply = say(client, stop=[stop] if as_list else stop)
    assert reply.choices[0].message.content == whole[: whole.index(stop)]
    assert reply.choices[0].finish_reason == "stop"


def test_logprobs_come_per_token(client):
    reply = say(client, logprobs=True, top_logprobs=2, max_tokens=5)
    tokens = reply.choices[0].logprobs.content
    assert len(tokens) == 5
    assert all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in tokens)


def test_max_completion_tokens_wins(client):
    assert say(client, max_tokens=9, max_completion_tokens=3).usage.completion_tokens == 3


def test_without_max_tokens_the_rest_of_the_context_is_used(client, tiller):
    reply = client.chat.completions.create(model="small", messages=ASK, temperature=0, extra_body={"ignore_eos": True})
    assert reply.usage.total_tokens == tiller.engine.max_model_len


def test_text_parts_and_the_developer_role_are_understood(client):
    parts = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "text", "text": " there"}]},
    ]
    plain = [{"role": "system", "content": "Be kind."}, *ASK]
    assert (
        say(client, messages=parts).choices[0].message.content == say(client, messages=plain).choices[0].message.content
    )


def test_unknown_openai_fields_are_ignored(client):
    assert say(client, user="me", store=False, metadata={"a": "b"}, service_tier="auto").choices


def test_coherence_comes_when_asked(client):
    wanted = greedy({"steering": {"preset": "bridge", "return": ["applied", "coherence"]}})
    coherence = say(client, **wanted).model_extra["steering"]["coherence"]
    assert coherence["verdict"] in ("ok", "strained", "broken")
    last = list(say(client, stream=True, **wanted))[-1]
    assert last.model_extra["steering"]["coherence"] == coherence


def test_raw_completion_continues_text(client):
    reply = client.completions.create(model="small", prompt="the bridge", **GREEDY)
    assert reply.object == "text_completion"
    assert reply.id.startswith("cmpl-")
    streamed = "".join(
        c.choices[0].text for c in client.completions.create(model="small", prompt="the bridge", stream=True, **GREEDY)
    )
    assert streamed == reply.choices[0].text
    assert (
        client.completions.create(model="small", prompt="the bridge", **greedy(STEER)).choices[0].text
        != reply.choices[0].text
    )


def test_models_are_the_base_and_its_presets(client):
    assert [m.id for m in client.models.list()][:3] == ["small", "small@bridge", "small@calm"]
    assert client.models.retrieve("small@bridge").model_extra["parent"] == "small"


@pytest.mark.parametrize("model", ["gpt-4", "small@nobody", "other@bridge"])
def test_unknown_model_is_404(client, model):
    with pytest.raises(openai.NotFoundError) as caught:
        say(client, model=model)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(model)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_stops_the_generation(live, tiller, stream):
    body = {
        "model": "small",
        "messages": ASK,
        "max_tokens": 100,
        "n": 8,
        "ignore_eos": True,
        "stream": stream,
        "temperature": 2,
    }
    with halted(tiller.engine):  # nothing ends by itself
        with asking(live[0], "/v1/chat/completions", body):
            until(lambda: sum(tiller.engine.occupancy) == 8)
        until(lambda: tiller.engine.occupancy == (0, 0))
    assert tiller.engine.failure is None
