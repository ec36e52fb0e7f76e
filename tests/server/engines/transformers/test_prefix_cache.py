"""Prefix cache: only new tokens are computed, and nothing is reused across specs, users or revisions."""

import asyncio
from dataclasses import replace

import pytest
import torch

from server.engines.base import Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from server.engines.transformers.prefix_cache import LEAST, PrefixCache
from tests.server.engines.transformers.test_engine import HOOK, edits, fingerprint

GREEDY = Sampling(temperature=0, max_tokens=16, ignore_eos=True)
HISTORY = [{"role": "user", "content": "what should I do this weekend"}]
SPECS = {"plain": {}, "add": edits((1, "add", 6.0)), "gated": edits((2, "clamp", 9.0), (3, "ablate", 0.0))}


@pytest.fixture
async def engine(parts):
    engine = TransformersEngine(*parts, hooks=[HOOK, "layers.2"], live=4)
    yield engine
    await engine.close()


def ask(engine, messages, edit, **changes):
    chat = engine.encode_chat(messages)
    wanted = Generation(
        chat.ids, chat.assistant, True, edit, fingerprint(edit), revision="r1", tenant="ada", sampling=GREEDY
    )
    return replace(wanted, **changes)


async def said(engine, generation):
    pieces = [p async for p in engine.generate(generation)]
    return "".join(p.text for p in pieces), pieces[-1].cached


def longer(reply):
    return [*HISTORY, {"role": "assistant", "content": reply}, {"role": "user", "content": "and the bridge?"}]


@pytest.mark.parametrize("spec", SPECS)
async def test_second_turn_computes_only_what_is_new_and_says_the_same(engine, parts, spec):
    first = ask(engine, HISTORY, SPECS[spec])
    reply, cached = await said(engine, first)
    assert cached == 0
    second = ask(engine, longer(reply), SPECS[spec])
    told, cached = await said(engine, second)
    known = len(engine.encode_chat(HISTORY).ids)
    assert known <= cached < len(second.ids)

    fresh = TransformersEngine(*parts, hooks=[HOOK], prefix_mb=0)
    assert await said(fresh, second) == (told, 0)
    await fresh.close()


async def test_same_question_again_computes_one_token(engine):
    wanted = ask(engine, HISTORY, SPECS["add"])
    reply, _ = await said(engine, wanted)
    assert await said(engine, wanted) == (reply, len(wanted.ids) - 1)


@pytest.mark.parametrize(
    "change",
    [
        {"edits": edits((1, "add", 6.1)), "fingerprint": "stronger"},
        {"edits": edits((1, "add", -6.0)), "fingerprint": "other sign"},
        {"edits": edits((1, "clamp", 6.0)), "fingerprint": "other mode"},
        {"revision": "r2"},
        {"tenant": "bob"},
    ],
)
async def test_any_change_computes_everything_anew(engine, change):
    wanted = ask(engine, HISTORY, SPECS["add"])
    await said(engine, wanted)
    assert (await said(engine, replace(wanted, **change)))[1] == 0


async def test_another_scope_shares_nothing_that_it_steers_differently(engine):
    wanted = ask(engine, HISTORY, SPECS["add"])
    await said(engine, wanted)
    assert (await said(engine, replace(wanted, steered=(True,) * len(wanted.ids))))[1] == 0


async def test_unsteered_turns_share_whatever_their_scope(engine):
    wanted = ask(engine, HISTORY, {})
    await said(engine, wanted)
    assert (await said(engine, replace(wanted, steered=(True,) * len(wanted.ids))))[1] == len(wanted.ids) - 1


async def test_cancelled_reply_leaves_a_sound_beginning(engine):
    wanted = ask(engine, HISTORY, SPECS["gated"], sampling=replace(GREEDY, max_tokens=200))
    stream = engine.generate(wanted)
    for _ in range(3):
        await anext(stream)
    await stream.aclose()
    again = ask(engine, HISTORY, SPECS["gated"])
    reply, cached = await said(engine, again)
    assert cached == len(again.ids) - 1
    assert (reply, 0) == await said(engine, replace(again, tenant="bob"))


async def test_many_at_once_each_find_their_own(engine):
    wanted = [ask(engine, HISTORY, SPECS[s], tenant=t) for s in SPECS for t in ("ada", "bob")]
    first = await asyncio.gather(*(said(engine, g) for g in wanted))
    again = await asyncio.gather(*(said(engine, g) for g in wanted))
    assert [r for r, _ in first] == [r for r, _ in again]
    assert {c for _, c in again} == {len(wanted[0].ids) - 1}


def kept(length):
    return torch.zeros(1, 2, 1, length, 4)


def test_longest_beginning_is_found_and_the_contained_one_forgotten():
    store = PrefixCache(1 << 20)
    store.add("s", range(20), [False] * 20, kept(20))
    store.add("s", range(40), [False] * 40, kept(40))
    assert len(store) == 1
    assert store.find("s", [*range(30), 99], [False] * 31)[0] == 30
    assert store.find("t", range(40), [False] * 40) == (0, None)
    assert store.find("s", range(LEAST - 1), [False] * (LEAST - 1)) == (0, None)


def test_oldest_is_forgotten_when_memory_is_full():
    size = kept(50).nelement() * 4
    store = PrefixCache(2 * size)
    for start in (0, 1000, 2000):
        store.add("s", range(start, start + 50), [False] * 50, kept(50))
    assert [store.find("s", range(a, a + 50), [False] * 50)[0] for a in (0, 1000, 2000)] == [0, 50, 50]
    assert store.bytes == 2 * size
    store.add("s", range(5000, 5200), [False] * 200, kept(200))
    assert store.find("s", range(5000, 5200), [False] * 200) == (0, None)
