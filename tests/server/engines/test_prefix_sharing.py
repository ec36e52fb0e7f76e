"""Scheduling in the transformers engine: chunked prefill of long prompts, and fairness between users."""

import asyncio

import pytest
import torch

from server.engines.base import Generation, Sampling
from server.engines.transformers import batch
from server.engines.transformers.engine import TransformersEngine
from tests.server.engines.transformers.test_engine import HOOK, SPECS, fingerprint
from tests.support import small_bundle
from tests.support.halted_engine import halted
from tests.support.waiting import eventually

WORDS = ["hello", "the bridge is red", "what should I do this weekend", "how are you " * 6, "long"]


@pytest.fixture
async def engine():
    torch.set_num_threads(1)
    tok = small_bundle.tokenizer()
    engine = TransformersEngine(
        small_bundle.model(len(tok)).to(small_bundle.DEVICE), tok, hooks=[HOOK], live=6, queue=100
    )
    yield engine
    await engine.close()


def wanted(engine, number, sampling):
    edit = SPECS[number % 4]
    messages = [{"role": "user", "content": WORDS[number % 5]}]
    if number % 3 == 0:
        messages += [{"role": "assistant", "content": "red"}, {"role": "user", "content": WORDS[number % 4]}]
    chat = engine.encode_chat(messages)
    return Generation(chat.ids, chat.assistant, True, edit, fingerprint(edit), sampling=sampling)


async def said(engine, generation):
    return "".join([p.text async for p in engine.generate(generation)])


async def test_long_prompt_does_not_hold_up_those_who_speak(engine, monkeypatch):
    monkeypatch.setattr(batch, "SPEAK_EVERY", 0)
    monkeypatch.setattr(batch, "CHUNK", 16)
    speaking = engine.generate(wanted(engine, 0, Sampling(temperature=0, max_tokens=200, ignore_eos=True)))
    await anext(speaking)
    chat = engine.encode_chat([{"role": "user", "content": "long " * 400}])
    reading = asyncio.create_task(
        said(engine, Generation(chat.ids, chat.assistant, True, sampling=Sampling(temperature=0, max_tokens=2)))
    )
    spoken_meanwhile = [piece.tokens async for piece in speaking if not reading.done()]
    assert len(chat.ids) > 25 * 16 and len(spoken_meanwhile) >= 15
    await reading


async def test_somebody_with_one_request_does_not_wait_behind_anothers_many(engine):
    sampling = Sampling(temperature=0, max_tokens=30, ignore_eos=True)
    done = []

    async def ask(name):
        chat = engine.encode_chat([{"role": "user", "content": "hello"}])
        await said(engine, Generation(chat.ids, chat.assistant, True, tenant=name, sampling=sampling))
        done.append(name)

    with halted(engine, when=lambda: engine.occupancy[0] == 6):  # all six places, whenever they are taken
        crowd = [asyncio.create_task(ask("many")) for _ in range(40)]
        await eventually(lambda: engine.occupancy, (6, 34))
        crowd.append(asyncio.create_task(ask("one")))
        await eventually(lambda: engine.occupancy, (6, 35))
    await asyncio.gather(*crowd)
    assert done.index("one") < 20
