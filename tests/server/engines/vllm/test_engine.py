"""The vLLM engine: same tokens as transformers, and prefix caching only between equal specs."""

import asyncio
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from server.engines.base import EngineFailed, Generation, Sampling
from steering.edits import ResolvedIntervention, compile_edit
from steering.model.chat_template import special_ids
from steering.model.hooks import read_stream, steer
from tests.support import small_bundle

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOOK = "layers.1"
GREEDY = Sampling(temperature=0, max_tokens=20, ignore_eos=True)
blocked = replace(GREEDY, logit_bias=((4, -100.0),))
ADD = (ResolvedIntervention(1, "add", 6.0),)
GATED = (ResolvedIntervention(2, "clamp", 9.0), ResolvedIntervention(3, "ablate", 0.0))
SCALE = (ResolvedIntervention(4, "scale", 3.0), ResolvedIntervention(5, "add", -6.0))
SPECS = [{}, {HOOK: ADD}, {HOOK: GATED}, {HOOK: SCALE, "layers.2": ADD}]
STRONG = {HOOK: (ResolvedIntervention(1, "add", 60.0),)}
LONG = "what should I do this weekend? the bridge is red and long. hello there, how are you? " * 2


def request(engine, text, spec, **changes):
    chat = engine.encode_chat([{"role": "user", "content": text}])
    edits = {h: compile_edit(list(i), small_bundle.sae()) for h, i in spec.items()}
    wanted = Generation(
        chat.ids, chat.assistant, True, edits, repr(spec), spec, revision="r1", tenant="ada", sampling=GREEDY
    )
    return replace(wanted, **changes)


async def said(engine, generation):
    pieces = [p async for p in engine.generate(generation)]
    return [i for p in pieces for i in p.ids], pieces[-1]


@pytest.fixture(scope="module")
def model(bundle):
    return AutoModelForCausalLM.from_pretrained(bundle / "model", dtype=torch.float32).eval()


@torch.no_grad()
def by_the_book(model, generation):
    ids, steered = list(generation.ids), list(generation.steered)
    for _ in range(generation.sampling.max_tokens):
        with steer(model, generation.edits, where=torch.tensor([steered])):
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        for token, bias in generation.sampling.logit_bias:
            logits[token] += bias
        ids.append(int(logits.argmax()))
        steered.append(generation.steers(ids[-1]))
    return ids[len(generation.ids) :]


async def test_batch_of_different_specs_says_what_transformers_says(engine, model):
    wanted = [
        request(engine, text, SPECS[i % 4], sampling=blocked)
        for i, text in enumerate(["hello", "how are you", LONG, "the bridge"] * 4)
    ]
    told = await asyncio.gather(*(said(engine, g) for g in wanted))
    assert [ids for ids, _ in told] == [by_the_book(model, g) for g in wanted]


@pytest.mark.parametrize("outside", [10**6, -1])
async def test_a_token_outside_the_embedding_is_refused_before_it_reaches_vllm(engine, model, outside):
    fine = request(engine, LONG, SPECS[0], tenant="outside")  # its own cache: the engine is shared by these tests
    with pytest.raises(EngineFailed, match=r"outside of the model's vocabulary"):
        await said(engine, replace(fine, ids=(1, outside), steered=(False, False)))
    with pytest.raises(EngineFailed, match=r"outside of the model's vocabulary"):
        await engine.record([(1, outside)], "layers.1")
    with pytest.raises(EngineFailed, match=r"outside of the model's vocabulary"):
        await engine.logprobs_unsteered((1, outside), 1)
    assert (await said(engine, fine))[0] == by_the_book(model, fine)


async def test_scopes_steer_what_they_say(engine, model):
    for mark in (True, False):
        wanted = request(engine, LONG, SPECS[1], sampling=blocked)
        wanted = replace(wanted, steered=(mark,) * len(wanted.ids), fingerprint=f"scope {mark}")
        assert (await said(engine, wanted))[0] == by_the_book(model, wanted)


async def test_new_tokens_are_steered_as_the_request_says(engine, model):
    often = replace(GREEDY, logit_bias=((2, 3.5), (4, -100.0)))  # a special token
    wanted = request(engine, LONG, {HOOK: (ResolvedIntervention(8, "add", 20.0),)}, sampling=often, tenant="new")
    usual = (await said(engine, wanted))[0]
    special = special_ids(engine.tokenizer)
    assert 2 in special & {*usual}
    for name, changes in {"none": {"steer_new": False}, "special": {"unsteered_new": special}}.items():
        changed = replace(wanted, fingerprint=name, **changes)
        assert (await said(engine, changed))[0] == by_the_book(model, changed) != usual


async def test_the_norm_is_preserved_beside_requests_that_do_not_ask_for_it(engine, model):
    wanted = [
        request(engine, text, ({}, STRONG, SPECS[2])[i % 3], sampling=blocked, tenant="kept")
        for i, text in enumerate([LONG, "hello"] * 3)
    ]
    kept = [
        replace(w, edits={h: replace(e, preserve=True) for h, e in w.edits.items()}, fingerprint=f"kept {i % 3}")
        for i, w in enumerate(wanted)
    ]
    told = await asyncio.gather(*(said(engine, g) for g in (*wanted, *kept)))
    assert [ids for ids, _ in told] == [by_the_book(model, g) for g in (*wanted, *kept)]
    assert told[1][0] != told[7][0]


async def test_prefixes_are_shared_only_where_the_same_places_are_steered(engine):
    first = request(engine, LONG, SPECS[1], marks="a", tenant="places")
    await said(engine, first)
    assert (await said(engine, first))[1].cached > 0
    assert (await said(engine, replace(first, marks="b")))[1].cached == 0


async def test_next_turn_is_served_from_the_cache_and_any_change_is_not(engine):
    first = request(engine, LONG, SPECS[1])
    ids, last = await said(engine, first)
    assert last.cached == 0
    history = (*first.ids, *ids)
    marks = (*first.steered, *[True] * len(ids))
    second = replace(first, ids=(*history, 2, 300, 301, 4, 3), steered=(*marks, False, False, False, False, True))
    whole_blocks = (len(history) - 1) // 32 * 32
    assert (await said(engine, second))[1].cached == whole_blocks > 32
    changed = [
        {"fingerprint": "stronger", "interventions": {HOOK: (ResolvedIntervention(1, "add", 6.1),)}},
        {"fingerprint": "other sign", "interventions": {HOOK: (ResolvedIntervention(1, "add", -6.0),)}},
        {"fingerprint": "other mode", "interventions": {HOOK: (ResolvedIntervention(1, "clamp", 6.0),)}},
        {"fingerprint": "other layer", "interventions": {"layers.2": ADD}},
        {"tenant": "bob"},
        {"interventions": {}, "edits": {}},
    ]
    for change in changed:
        assert (await said(engine, replace(second, **change)))[1].cached == 0, change


async def test_unsteered_requests_share_as_in_plain_vllm(engine):
    wanted = request(engine, LONG, {}, tenant="")
    await said(engine, wanted)
    assert (await said(engine, replace(wanted, fingerprint="whatever")))[1].cached > 0


async def test_new_revision_is_used_by_new_requests_only(engine, bundle, tmp_path):
    sae = small_bundle.sae()
    turned = replace(sae, W_dec=-sae.W_dec)
    turned.save(tmp_path / "r2", hook=HOOK, model="small")
    running = engine.generate(request(engine, "hello", SPECS[1], sampling=replace(GREEDY, max_tokens=60)))
    first = await anext(running)
    await engine.add_revision("r2", dict.fromkeys((HOOK, "layers.2"), tmp_path / "r2"))
    old = [i async for p in running for i in p.ids]
    again, _ = await said(
        engine, request(engine, "hello", SPECS[1], sampling=replace(GREEDY, max_tokens=60), tenant="x")
    )
    assert [*first.ids, *old] == again
    negative = {HOOK: (ResolvedIntervention(1, "add", -6.0),)}
    new, last = await said(engine, request(engine, "hello", SPECS[1], revision="r2"))
    assert last.cached == 0
    assert new == (await said(engine, request(engine, "hello", negative)))[0]


async def test_record_and_logprobs_are_those_of_the_model(engine, model):
    ids = list(range(5, 45))
    stream = read_stream(model, torch.tensor([ids]), HOOK)[0]
    torch.testing.assert_close((await engine.record([ids], HOOK))[0], stream, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        logits = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), -1)
    expected = [float(logits[i - 1, ids[i]]) for i in range(10, 40)]
    assert await engine.logprobs_unsteered(ids, 10) == pytest.approx(expected, abs=1e-4)


async def test_stop_seed_and_logprobs(engine):
    sampled = Sampling(temperature=1.0, seed=3, max_tokens=12, ignore_eos=True, logprobs=2)
    pieces = [p async for p in engine.generate(request(engine, "hello", SPECS[2], sampling=sampled))]
    again = [p async for p in engine.generate(request(engine, "hello", SPECS[2], sampling=sampled))]
    assert [i for p in pieces for i in p.ids] == [i for p in again for i in p.ids]
    logprobs = [t for p in pieces for t in p.logprobs]
    assert len(logprobs) == pieces[-1].tokens == 12
    assert pieces[-1].finish_reason == "length"
    text = "".join(p.text for p in pieces)
    stopped = replace(sampled, stop=(text[4:7],))
    cut = [p async for p in engine.generate(request(engine, "hello", SPECS[2], sampling=stopped))]
    assert "".join(p.text for p in cut) == text[: text.index(text[4:7])]
    assert cut[-1].finish_reason == "stop"


async def test_what_cannot_be_steered_is_an_error_and_the_next_request_works(engine):
    from server.engines.base import EngineFailed

    bad = request(engine, "hello", SPECS[1], revision="no such revision")
    with pytest.raises(EngineFailed, match="no longer served"):
        await said(engine, bad)
    assert len((await said(engine, request(engine, "hello", SPECS[1])))[0]) == 20


async def test_a_place_counts_those_that_came_before_and_are_silent(engine):
    long = replace(GREEDY, max_tokens=40)
    asked = [
        asyncio.create_task(said(engine, request(engine, "hello", {}, name=f"n{i}", sampling=long))) for i in range(10)
    ]
    await asyncio.sleep(0)
    assert [engine.queue_position("ada", f"n{i}") for i in range(10)] == list(range(10))
    assert engine.queue_position("bob", "n3") is None
    await asyncio.gather(*asked)
    assert engine.queue_position("ada", "n9") is None
