"""Scopes: the tokens that each scope steers; and stop conditions of the text."""

from dataclasses import replace
from itertools import pairwise

import pytest

from server.engines.base import Sampling
from server.schemas.generation import ChatRequest
from server.schemas.steering import SteeringRequest
from steering.catalogue.resolve import Catalogue
from steering.model.chat_template import special_ids
from steering.spec import ASSISTANT, Intervention, Preset, SteeringSpec, Where

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
    assert SteeringRequest(preset="wide", scale=0.5).merged_with(preset, ASSISTANT).scope == "all"
    assert SteeringRequest(preset="wide", scope=None).merged_with(preset, ASSISTANT).scope == "all"
    assert SteeringRequest(preset="wide", scope="generated").merged_with(preset, ASSISTANT).scope == "generated"


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


async def chosen(tiller, chat=None, **asked):
    chat = chat or tiller.engine.encode_chat(TALK)
    asked = SteeringRequest.model_validate({"features": [{"id": "small/1", "strength": 0.5}], **asked})
    return chat, (await tiller.choose("small", asked)).generation_request(chat, Sampling())


@pytest.mark.parametrize(
    ("scope", "text"), [("all", "hithe bridgehow long"), ("assistant", "the bridge"), ("generated", "")]
)
async def test_special_tokens_and_the_templates_are_left_out_in_every_scope(tiller, scope, text):
    chat, generation = await chosen(tiller, scope=scope, skip_special=True)
    words = [i for i, on in zip(chat.ids, generation.steered, strict=True) if on]
    assert tiller.engine.tokenizer.decode(words) == text
    assert generation.steer_new
    assert generation.unsteered_new == special_ids(tiller.engine.tokenizer)
    _, before = await chosen(tiller, scope=scope, skip_special=False)
    assert before.steered == chat.steered(Where(scope))
    assert before.unsteered_new == frozenset()


async def test_positions_are_steered_alone_or_with_the_reply(tiller):
    n = len(tiller.engine.encode_chat(TALK).ids)
    chat, alone = await chosen(tiller, positions=[2, [4, 6], -1])
    assert [i for i, on in enumerate(alone.steered) if on] == [2, 4, 5, n - 1]
    assert not alone.steer_new
    _, both = await chosen(tiller, positions=[[0, 3]], scope="generated")
    assert [i for i, on in enumerate(both.steered) if on] == [0, 1, 2, n - 1]
    assert both.steer_new
    _, words = await chosen(tiller, positions=[[0, None]], skip_special=True)
    assert words.steered == chat.steered(Where("all", skip_special=True))


async def test_requests_whose_steered_places_do_not_follow_from_the_tokens_share_no_cached_prefix(tiller):
    longer = tiller.engine.encode_chat([*TALK, {"role": "assistant", "content": "red"}, TALK[0]])
    for asked in ({"positions": [-3]}, {"scope": "generated"}):
        (_, one), (_, other) = await chosen(tiller, **asked), await chosen(tiller, longer, **asked)
        assert one.fingerprint == other.fingerprint
        assert one.marks != other.marks != ""
    for asked in ({"scope": "all"}, {"scope": "assistant", "skip_special": True}):
        assert (await chosen(tiller, **asked))[1].marks == ""
    (_, with_special), (_, without) = [await chosen(tiller, scope="all", skip_special=skip) for skip in (False, True)]
    assert with_special.fingerprint != without.fingerprint


async def test_the_bundles_and_a_presets_special_tokens_count_where_the_request_says_nothing(tiller):
    info = tiller.bundle.info.model_copy(update={"skip_special": True})
    newer = replace(tiller, catalogue=Catalogue([replace(tiller.bundle, info=info)]))
    assert (await newer.choose("small", SteeringRequest.model_validate({"features": ONE}))).resolved.spec.skip_special
    old = Preset(id="old", name="Old", steering=SteeringSpec.model_validate({"features": ONE, "scope": "all"}))
    said = SteeringRequest.model_validate
    assert said({"preset": "old"}).merged_with(old, info.where).where == Where("all")
    assert said({"preset": "old", "skip_special": True}).merged_with(old, info.where).where == Where("all", True)


ONE = [{"id": "small/1", "strength": 0.9}]


def completed(http, **steering):
    asked = {"model": "small", "prompt": [0, *range(300, 312)], **SAID, "steering": {"features": ONE, **steering}}
    return http.post("/v1/completions", json=asked).json()


def test_of_raw_tokens_the_special_ones_are_told_by_their_ids(http):
    whole, words = (completed(http, scope="all", skip_special=skip) for skip in (False, True))
    chosen = completed(http, scope="generated", positions=[[1, None]], skip_special=True)
    assert words["steering"]["skip_special"]
    assert whole["choices"] != words["choices"] == chosen["choices"]


def test_chosen_positions_alone_leave_the_reply_unsteered(http):
    alone = completed(http, positions=[[0, None]])
    assert alone["steering"]["scope"] == "positions"
    assert alone["steering"]["positions"] == [[0, None]]
    assert alone["choices"] != completed(http, scope="all")["choices"]


@pytest.mark.parametrize(
    ("steering", "param", "says"),
    [
        ({"positions": [0, [3, 3]]}, "steering.positions.1", "holds no token"),
        ({"positions": [0, "1"]}, "steering.positions.1", "no place in the prompt"),
        ({"positions": [0] * 65}, "steering.positions", "64"),
        ({"positions": [500]}, "steering.positions", "there is no token 500: the prompt has 13"),
        ({"positions": [0], "scope": "all"}, "steering.positions", "do not go with the scope 'all'"),
        ({"scope": "positions"}, "steering.positions", "steers nothing without positions"),
        ({"norm": "keep"}, "steering.norm", "preserve"),
    ],
)
def test_bad_positions_are_refused_at_their_place(http, steering, param, says):
    error = completed(http, **steering)["error"]
    assert error["param"] == param
    assert says in error["message"]


def test_a_comparison_and_a_saved_preset_keep_positions_special_tokens_and_norm(http):
    own = {"scope": "generated", "positions": [-1, [0, 4]], "skip_special": True, "norm": "preserve"}
    spec = {"features": ONE, **own}
    saved = http.put("/v1/presets/there", json={"id": "there", "name": "There", "steering": spec})
    assert saved.status_code in (200, 201), saved.text
    variants = [{"name": "a", "steering": spec}, {"name": "b", "steering": {"preset": "there"}}]
    asked = {"model": "small", "messages": TALK, "seed": 1, "max_tokens": 4, "variants": variants}
    one, other = (v["steering"] for v in http.post("/v1/steering/compare", json=asked).json()["data"])
    assert one["hash"] == other["hash"]
    assert {name: other[name] for name in own} == own
    http.delete("/v1/presets/there")
