"""Scopes: the tokens that each scope steers; and stop conditions of the text."""

from dataclasses import replace
from itertools import pairwise

import pytest

from server.engines.base import Sampling
from server.schemas.generation import ChatRequest
from server.schemas.steering import SteeringRequest
from steering.catalogue.resolve import Catalogue
from steering.spec import Intervention, Preset, SteeringSpec

TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "the bridge"},
    {"role": "user", "content": "how long"},
]
SAID = {"temperature": 0, "max_tokens": 60, "ignore_eos": True}


async def masks(tiller, scope, strength=0.5):
    asked = SteeringRequest(features=(Intervention(id="small/1", strength=strength),), scope=scope)
    chat = tiller.engine.encode_chat(TALK)
    return chat, (await tiller.choose("small", asked)).generation_request(chat, Sampling())


async def test_scope_assistant_steers_the_assistants_turns_old_and_new(tiller):
    chat, generation = await masks(tiller, "assistant")
    touched = tiller.engine.tokenizer.decode([i for i, on in zip(chat.ids, generation.steered, strict=True) if on])
    assert touched == "<|assistant|>the bridge<|end|><|assistant|>"
    assert generation.steer_new


async def test_scope_all_steers_every_token(tiller):
    _, generation = await masks(tiller, "all")
    assert all(generation.steered)
    assert generation.steer_new


async def test_scope_generated_begins_where_the_first_new_token_is_read(tiller):
    _, generation = await masks(tiller, "generated")
    assert generation.steered == (False,) * (len(generation.steered) - 1) + (True,)
    assert generation.steer_new


async def test_a_request_without_a_scope_has_the_bundles(tiller):
    info = tiller.bundle.info.model_copy(update={"scope": "all"})
    whole = replace(tiller, catalogue=Catalogue([replace(tiller.bundle, info=info)]))
    assert all((await masks(whole, None))[1].steered)
    assert not all((await masks(whole, "assistant"))[1].steered)
    assert not all((await masks(tiller, None))[1].steered)


async def test_a_presets_scope_counts_where_the_request_has_none(tiller):
    preset = Preset(id="wide", name="Wide", steering=SteeringSpec(scope="all"))
    assert SteeringRequest(preset="wide", scale=0.5).merged_with(preset, "assistant").scope == "all"
    assert SteeringRequest(preset="wide", scope=None).merged_with(preset, "assistant").scope == "all"
    assert SteeringRequest(preset="wide", scope="generated").merged_with(preset, "assistant").scope == "generated"


async def test_nothing_to_steer_hands_the_engine_no_edits(tiller):
    _, generation = await masks(tiller, "all", strength=0.0)
    assert generation.edits == {}
    assert generation.fingerprint == "s_0"


def test_raw_text_has_no_roles_so_assistant_means_generated(http):
    replies = [
        http.post(
            "/v1/completions",
            json={
                "model": "small",
                "prompt": "the bridge",
                **SAID,
                "steering": {"features": [{"id": "small/1", "strength": 0.9}], "scope": scope},
            },
        ).json()["choices"]
        for scope in ("assistant", "generated", "all")
    ]
    assert replies[0] == replies[1] != replies[2]


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_stop_text_that_two_tokens_share_ends_the_reply(client, include, stream):
    def say(**rest):
        return client.chat.completions.create(
            model="small",
            messages=TALK[:1],
            temperature=0,
            max_tokens=60,
            extra_body={"ignore_eos": True, "include_stop_str_in_output": include},
            **rest,
        )

    whole = say(logprobs=True).choices[0]
    tokens = [t.token for t in whole.logprobs.content]
    stop = next(
        a[-1] + b[0] for a, b in pairwise(tokens) if (a + b).isascii() and (a[-1] + b[0]) in whole.message.content
    )
    assert stop not in tokens
    if stream:
        text = "".join(c.choices[0].delta.content or "" for c in say(stop=[stop, "never said"], stream=True))
    else:
        text = say(stop=[stop, "never said"]).choices[0].message.content
    assert text == whole.message.content[: whole.message.content.index(stop) + len(stop) * include]


def test_presets_system_prompt_yields_to_one_that_stands_later(http):
    late = [TALK[0], {"role": "system", "content": "Be wild."}]
    used = [
        http.post("/v1/chat/completions", json={"model": m, "messages": late, "max_tokens": 1}).json()["usage"][
            "prompt_tokens"
        ]
        for m in ("small", "small@calm")
    ]
    assert used[0] == used[1]


def test_presets_sampling_counts_only_where_the_request_is_silent(http):
    http.put("/v1/presets/cold", json={"id": "cold", "name": "Cold", "sampling": {"temperature": 0, "min_tokens": 6}})

    def say(model, **rest):
        return http.post(
            "/v1/chat/completions", json={"model": model, "messages": TALK[:1], "max_tokens": 20, **rest}
        ).json()["choices"][0]["message"]

    greedy, hot = {"temperature": 0, "min_tokens": 6}, {"temperature": 2, "seed": 3}
    assert say("small@cold") == say("small", **greedy)
    assert say("small@cold", **hot) == say("small", **hot, min_tokens=6) != say("small@cold")
    http.delete("/v1/presets/cold")


def test_the_models_sampling_counts_where_neither_request_nor_preset_has_any():
    preset = Preset(id="cold", name="Cold", sampling={"temperature": 0.2})
    hello = {"model": "small", "messages": TALK[:1]}
    own = {"temperature": 0.5, "top_p": 0.9}
    by_model, by_preset = (ChatRequest.model_validate(hello).sampling(p, 8, own) for p in (None, preset))
    asked = ChatRequest.model_validate({**hello, "temperature": 1.0}).sampling(preset, 8, own)
    assert [(s.temperature, s.top_p) for s in (by_model, by_preset, asked)] == [(0.5, 0.9), (0.2, 0.9), (1.0, 0.9)]


def test_legacy_logprobs_line_up_with_the_text(client):
    def ask(**rest):
        return client.completions.create(
            model="small",
            prompt="the bridge",
            logprobs=2,
            temperature=0,
            max_tokens=12,
            extra_body={"ignore_eos": True},
            **rest,
        )

    whole = ask().choices[0].logprobs
    assert len(whole.tokens) == len(whole.token_logprobs) == len(whole.top_logprobs) == len(whole.text_offset) == 12
    assert whole.text_offset == [sum(map(len, whole.tokens[:i])) for i in range(12)]
    parts = [c.choices[0].logprobs for c in ask(stream=True) if c.choices[0].logprobs]
    assert [o for p in parts for o in p.text_offset] == whole.text_offset
