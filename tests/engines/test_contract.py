"""What every engine keeps: others come, go and break, and nobody else notices."""

import asyncio
import random

import pytest
import torch

from server.engines.engine import EngineFailed, Generation, Overloaded, Sampling
from server.engines.transformers_engine import TransformersEngine
from steering.edits import ResidualEdit
from tests import small
from tests.engines.test_transformers_engine import HOOK, SPECS, fingerprint

WORDS = ["hello", "the bridge is red", "what should I do this weekend", "how are you " * 6, "long"]


@pytest.fixture
async def engine():
    torch.set_num_threads(1)
    tok = small.tokenizer()
    engine = TransformersEngine(small.model(len(tok)), tok, hooks=[HOOK], live=6, queue=100)
    yield engine
    await engine.close()


def wanted(engine, number, sampling):
    edit = SPECS[number % 4]
    messages = [{"role": "user", "content": WORDS[number % 5]}]
    if number % 3 == 0:
        messages += [{"role": "assistant", "content": "red"}, {"role": "user", "content": WORDS[number % 4]}]
    chat = engine.encode_chat(messages)
    return Generation(chat.ids, chat.assistant, True, edit, fingerprint(edit), sampling=sampling)


def poisoned():
    none, empty = torch.zeros(0, small.WIDTH), torch.zeros(0)
    return ResidualEdit(
        push=torch.full((small.WIDTH,), torch.nan), w=none, b=empty, threshold=empty, d=none, gate=empty
    )


async def said(engine, generation):
    return "".join([p.text async for p in engine.generate(generation)])


async def test_nobody_notices_who_joins_leaves_cancels_or_breaks(engine):
    rng = random.Random(0)
    sampling = [Sampling(temperature=t, max_tokens=12, seed=3, ignore_eos=True) for t in (0, 0.8)]
    sampling.append(Sampling(temperature=1.2, top_p=0.9, repetition_penalty=1.3, max_tokens=9, seed=5, ignore_eos=True))
    cases = [wanted(engine, n, sampling[n % 3]) for n in range(12)]
    alone = [await said(engine, g) for g in cases]

    async def leave_early(generation):
        stream = engine.generate(generation)
        for _ in range(rng.randrange(1, 6)):
            await anext(stream)
        await stream.aclose()

    async def breaks(generation):
        bad = Generation(generation.ids, generation.steered, True, {HOOK: poisoned()}, "s_poison")
        with pytest.raises(EngineFailed):
            await said(engine, bad)

    async def visit(step):
        await asyncio.sleep(rng.random() * 1.5)
        case = rng.randrange(12)
        kind = rng.random()
        if kind < 0.2:
            await leave_early(cases[case])
        elif kind < 0.3:
            await breaks(cases[case])
        else:
            assert await said(engine, cases[case]) == alone[case], step

    for start in range(0, 240, 60):
        await asyncio.gather(*(visit(start + i) for i in range(60)))
    assert engine.load_now == (0, 0)


async def test_streamed_pieces_are_the_whole_reply(engine):
    generation = wanted(engine, 2, Sampling(temperature=0.9, seed=11, max_tokens=40, ignore_eos=True))
    pieces = [p async for p in engine.generate(generation)]
    ids = [i for p in pieces for i in p.ids]
    assert len(ids) == pieces[-1].tokens == 40
    assert "".join(p.text for p in pieces).rstrip("\ufffd") == engine.decode(ids).rstrip("\ufffd")


async def test_long_prompt_does_not_hold_up_those_who_speak(engine):
    speaking = engine.generate(wanted(engine, 0, Sampling(temperature=0, max_tokens=200, ignore_eos=True)))
    await anext(speaking)
    chat = engine.encode_chat([{"role": "user", "content": "long " * 400}])
    reading = asyncio.create_task(
        said(engine, Generation(chat.ids, chat.assistant, True, sampling=Sampling(temperature=0, max_tokens=2)))
    )
    assert len([await anext(speaking) for _ in range(20)]) == 20
    await reading
    await speaking.aclose()


async def test_somebody_with_one_request_does_not_wait_behind_anothers_many(engine):
    sampling = Sampling(temperature=0, max_tokens=30, ignore_eos=True)
    done = []

    async def ask(name):
        chat = engine.encode_chat([{"role": "user", "content": "hello"}])
        await said(engine, Generation(chat.ids, chat.assistant, True, tenant=name, sampling=sampling))
        done.append(name)

    crowd = [asyncio.create_task(ask("many")) for _ in range(40)]
    await asyncio.sleep(0.05)
    await ask("one")
    assert done.index("one") < 20
    await asyncio.gather(*crowd)


async def test_full_queue_says_when_to_come_back(engine):
    one = wanted(engine, 0, Sampling(temperature=0, max_tokens=3, ignore_eos=True))
    results = await asyncio.gather(*(said(engine, one) for _ in range(150)), return_exceptions=True)
    refused = [r for r in results if isinstance(r, Overloaded)]
    assert refused
    assert all(r.retry_after >= 1 for r in refused)
    assert {r for r in results if isinstance(r, str)} == {await said(engine, one)}
