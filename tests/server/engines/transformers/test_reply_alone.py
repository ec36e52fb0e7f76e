"""A reply's own work: whatever ids one reply is made of, and whatever fails in it, the others of its step go on."""

import asyncio

import pytest

from server.engines.base import EngineFailed, Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from server.engines.transformers.loading import eos_ids
from tests.support import small_bundle
from tests.support.halted_engine import halted
from tests.support.published_tokenizers import byte_fallback

HOOK = "layers.1"
TOKENIZER = byte_fallback("llama")


@pytest.fixture
async def engine():
    model = small_bundle.model(len(TOKENIZER)).to(small_bundle.DEVICE)
    engine = TransformersEngine(model, TOKENIZER, hooks=[HOOK], live=4, queue=8)
    yield engine
    await engine.close()


def request(engine, text="Hello", *, of=(), **sampling):
    """A request whose reply is made of the tokens `of` alone."""
    bias = tuple((TOKENIZER.convert_tokens_to_ids(piece), 100.0) for piece in of)
    asked = Sampling(
        **{"temperature": 1.0, "seed": 1, "max_tokens": 60, "ignore_eos": True, "logit_bias": bias} | sampling
    )
    ids = engine.encode(text)
    return Generation(ids, (False,) * len(ids), False, text_from=0, sampling=asked)


async def pieces_of(engine, generation):
    return [p async for p in engine.generate(generation)]


async def text_of(engine, generation):
    return "".join(p.text for p in await pieces_of(engine, generation))


BYTES = ("<0x4B>", "<0x9E>", "▁world")


async def test_a_reply_of_broken_bytes_is_text_and_its_neighbours_are_as_if_alone(engine):
    wanted = [
        request(engine, "the world"),
        request(engine, of=BYTES),
        request(engine, "tomato", repetition_penalty=1.3),
    ]
    alone = [await text_of(engine, g) for g in wanted]
    together = await asyncio.gather(*(pieces_of(engine, g) for g in wanted))
    assert ["".join(p.text for p in pieces) for pieces in together] == alone
    ids = [i for p in together[1] for i in p.ids]
    assert len(ids) == 60
    assert "Hello" + alone[1] == engine.decode([*wanted[1].ids, *ids])
    assert "\ufffd" in alone[1] and " world" in alone[1]


@pytest.mark.parametrize("of", ["text.push", "draw.adjusted", "draw.count_token", "speller.take"])
async def test_what_fails_in_one_reply_ends_that_one_only(engine, of, monkeypatch):
    from server.engines.transformers import engine as module

    begin, (part, name) = module.Sequence_.begin, of.split(".")

    def broken(*_, **__):
        raise IndexError("this reply's own")

    def begun(request, *rest):
        sequence = begin(request, *rest)
        if request.name == "broken":
            monkeypatch.setattr(getattr(sequence, part), name, broken)
        return sequence

    fine = [request(engine, t, logprobs=1) for t in ("the world", "tomato")]
    alone = [await text_of(engine, g) for g in fine]
    monkeypatch.setattr(module.Sequence_, "begin", begun)
    culprit = request(engine, logprobs=1)
    object.__setattr__(culprit, "name", "broken")
    with halted(engine):
        tasks = [asyncio.create_task(text_of(engine, g)) for g in (fine[0], culprit, fine[1])]
        await asyncio.sleep(0)
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert [told[0], told[2]] == alone
    assert isinstance(told[1], EngineFailed)
    assert await text_of(engine, fine[0]) == alone[0]
    assert engine.occupancy == (0, 0)


@pytest.mark.parametrize("outside", [10**6, -1])
async def test_a_token_outside_the_embedding_is_refused_before_it_reaches_the_batch(engine, outside):
    fine = asyncio.create_task(text_of(engine, request(engine)))
    with pytest.raises(EngineFailed, match="outside of the model's vocabulary"):
        await text_of(engine, Generation((1, outside), (False, False), False))
    with pytest.raises(EngineFailed, match="outside of the model's vocabulary"):
        await engine.record([(1, 2), (1, outside)], "layers.1")
    with pytest.raises(EngineFailed, match="outside of the model's vocabulary"):
        await engine.logprobs_unsteered((1, outside), 1)
    assert await fine


async def test_the_end_of_text_of_a_tokenizer_larger_than_its_model_does_not_break_a_step():
    tokenizer = byte_fallback("llama")
    tokenizer.add_tokens(["<late>"], special_tokens=True)
    tokenizer.eos_token = "<late>"
    model = small_bundle.model(len(tokenizer) - 1).to(small_bundle.DEVICE)
    assert tokenizer.eos_token_id not in eos_ids(model, tokenizer)


@pytest.mark.parametrize(("piece", "text"), [("▁Paris", " Paris"), ("▁▁▁▁", "    ")])
async def test_a_completion_continues_its_prompt_exactly_and_so_do_its_log_probabilities(engine, piece, text):
    pieces = await pieces_of(engine, request(engine, of=[piece], temperature=0, max_tokens=1, logprobs=2))
    assert "".join(p.text for p in pieces) == text
    (token,) = [t for p in pieces for t in p.logprobs]
    assert (token.token, bytes(token.bytes), token.top[0].token) == (text, text.encode(), text) or token.top[0] != token


async def test_a_message_begins_without_the_space_that_its_tokenizer_writes_first(engine):
    generation = request(engine, of=["▁Paris"], temperature=0, max_tokens=1)
    object.__setattr__(generation, "text_from", len(generation.ids))
    assert await text_of(engine, generation) == "Paris"


@pytest.mark.parametrize("of", [(), BYTES, ("日", "<0xE6>", "<0x97>", "<0xA5>", "▁")])
async def test_the_tokens_of_the_log_probabilities_joined_are_the_text(engine, of):
    pieces = await pieces_of(engine, request(engine, of=of, logprobs=3))
    text, tokens = "".join(p.text for p in pieces), [t for p in pieces for t in p.logprobs]
    assert len(tokens) == 60
    assert "".join(t.token for t in tokens) == text
    assert all(len(t.top) == 3 for t in tokens)


async def test_stop_strings_wait_for_the_least_number_of_tokens(engine):
    asked = {"of": ["▁tomato"], "temperature": 0, "stop": ("tomato",)}
    early, late = [await pieces_of(engine, request(engine, **asked, min_tokens=n)) for n in (0, 20)]
    assert (early[-1].tokens, early[-1].finish_reason) == (1, "stop")
    assert (late[-1].tokens, late[-1].finish_reason) == (20, "stop")
    assert "".join(p.text for p in late) == " tomato" * 19 + " "


async def test_a_stop_string_that_is_a_special_token_ends_the_reply(engine):
    pieces = await pieces_of(engine, request(engine, of=["<|user|>"], temperature=0, stop=("<|user|>",)))
    assert (pieces[-1].tokens, pieces[-1].finish_reason) == (1, "stop")
