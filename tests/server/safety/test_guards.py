"""Three guards of one reply, on a real engine: released text, withheld text, and failures of the probe."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
import torch

from server.engines.base import EngineFailed, Generation, Sampling, TextPiece
from server.engines.transformers.engine import TransformersEngine
from server.safety.guards import CannotRead, Guards
from steering.edits import ResidualEdit
from steering.errors import SteeringError
from steering.evaluate.classifiers import Auroc
from steering.safety.probe import WITNESS, Card, Probe
from steering.safety.refusal import RefusalDetector
from tests.support import small_bundle

HOOK, BELOW = "layers.1", "layers.0"
PROMPT = (0, 2, 260, 261, 262, 263, 4, 3)


@pytest.fixture
async def engine():
    torch.set_num_threads(1)
    tok = small_bundle.tokenizer()
    made = TransformersEngine(small_bundle.model(len(tok)).to(small_bundle.DEVICE), tok, hooks=[HOOK], live=4, queue=16)
    yield made
    await made.close()


def pushed(strength=40.0):
    none, empty = torch.zeros(0, small_bundle.WIDTH), torch.zeros(0)
    return ResidualEdit(
        push=strength * small_bundle.sae().W_dec[0], w=none, b=empty, threshold=empty, d=none, gate=empty
    )


def request(*, steered=True, tokens=40, **sampling):
    edits = {HOOK: pushed()} if steered else {}
    given = Sampling(temperature=0, max_tokens=tokens, ignore_eos=True, **sampling)
    mask = (*(False for _ in PROMPT[1:]), True)
    return Generation(PROMPT, mask, True, edits, "s_test" if steered else "s_0", sampling=given)


async def said(pieces):
    async with aclosing(pieces) as stream:
        return [piece async for piece in stream]


async def reply(engine, wanted):
    return [i for piece in await said(engine.generate(wanted)) for i in piece.ids]


def card(threshold):
    figures = {"forbidden": 0, "benign": 0, "held_out_forbidden": 0, "held_out_benign": 0}
    shares = {"allowed": 0.01, "false_positives": 0.0, "found": 1.0}
    auroc = Auroc(value=1, low=1, high=1)
    return Card(hook=BELOW, model="small", threshold=threshold, pace=1.0, auroc=auroc, **figures, **shares)


async def probe_for(engine, ids, at):
    """A probe that reads the stream's likeness to what it is at one token of a text, and fires there, not before."""
    stream = (await engine.record([ids], BELOW))[0].cpu()
    wanted = stream[at] / stream[at].norm()
    highest = float((stream[:at] @ wanted).max()) if at else 0.0
    line = (highest + float(stream[at] @ wanted)) / 2
    assert highest < line, "another token of the text is more like it than itself"
    (witness,) = await engine.record([WITNESS], BELOW)
    zero, one = torch.zeros(small_bundle.WIDTH), torch.ones(small_bundle.WIDTH)
    return Probe(card(0.5), wanted, torch.tensor(-line), zero, one, witness[-1].cpu())


async def never(engine):
    probe = await probe_for(engine, PROMPT, 5)
    return replace(probe, bias=torch.tensor(-1e4))


async def a_hit(engine, wanted, least=24):
    """A probe that fires at some token of the reply to a request, and which token that is."""
    ids = await reply(engine, wanted)
    (stream,) = await engine.record([[*PROMPT, *ids]], BELOW)
    own = stream[len(PROMPT) :]
    for at in range(least, len(ids)):
        others = torch.cat([stream[: len(PROMPT)], own[:at]])
        if (others @ own[at]).max() < own[at] @ own[at] * 0.999:
            return await probe_for(engine, [*PROMPT, *ids], len(PROMPT) + at), at
    raise AssertionError("no token of this reply stands out")


def differing(tokens=40):
    """A reply whose tokens differ: likely ones may not come again."""
    return request(tokens=tokens, repetition_penalty=3.0)


async def test_a_reply_that_nothing_is_wrong_with_is_let_out_whole(engine):
    wanted = differing()
    plain, watch = await said(engine.generate(wanted)), Guards(engine, await never(engine))
    guarded = await said(watch.generate(wanted, await watch.check_prompt(wanted), engine.generate))
    assert [i for p in guarded for i in p.ids] == [i for p in plain for i in p.ids]
    assert "".join(p.text for p in guarded) == "".join(p.text for p in plain)
    assert guarded[-1].finish_reason == plain[-1].finish_reason == "length"


@pytest.mark.parametrize(("window", "every"), [(16, 8), (5, 3), (1, 1), (24, 100), (0, 4)])
async def test_nothing_past_the_window_before_a_hit_is_ever_delivered(engine, window, every):
    wanted = differing()
    probe, at = await a_hit(engine, wanted)
    whole = await reply(engine, wanted)
    watch = Guards(engine, probe, window=window, every=every, on_prompt=False)
    pieces = await said(watch.generate(wanted, await watch.check_prompt(wanted), engine.generate))
    delivered = [i for p in pieces for i in p.ids]
    assert delivered == whole[: len(delivered)]
    assert len(delivered) <= at - window
    assert pieces[-1].finish_reason == "content_filter"
    assert pieces[-1].tokens == len(delivered)
    assert not pieces[-1].text


async def one_by_one(engine, ids):
    """Yield a reply as pieces of one token each."""
    for i, token in enumerate(ids):
        yield TextPiece(engine.decode([token]), i + 1, (token,), finish_reason="length" if i + 1 == len(ids) else None)


@pytest.mark.parametrize(("window", "every"), [(16, 8), (5, 3), (1, 1), (0, 100)])
async def test_of_a_reply_that_comes_token_by_token_all_up_to_the_window_is_delivered(engine, window, every):
    wanted = differing()
    probe, at = await a_hit(engine, wanted)
    whole = await reply(engine, wanted)

    source = one_by_one(engine, whole)
    pieces = await said(Guards(engine, probe, window=window, every=every).check_reply(source, PROMPT))
    assert [i for p in pieces for i in p.ids] == whole[: at - window]
    assert (pieces[-1].finish_reason, pieces[-1].tokens) == ("content_filter", at - window)


async def test_no_piece_is_let_out_before_the_probe_has_read_past_it(engine):
    wanted, read = differing(), []

    class Looking:
        """The engine, noting up to where it was read."""

        def __getattr__(self, name):
            return getattr(engine, name)

        async def record(self, texts, hook):
            found = await engine.record(texts, hook)
            read.append(len(texts[0]) - len(PROMPT))
            return found

    watch = Guards(Looking(), await never(engine), window=6, every=4)
    async with aclosing(watch.check_reply(engine.generate(wanted), PROMPT)) as pieces:
        async for piece in pieces:
            ended = read[-1] == 40
            assert piece.tokens <= read[-1] - (0 if ended else 6)
    assert read[-1] == 40


async def test_a_hit_in_the_last_tokens_is_found_though_the_reply_has_ended(engine):
    wanted = differing()
    probe, at = await a_hit(engine, wanted)
    short = differing(tokens=at + 1)
    pieces = await said(Guards(engine, probe, window=4).check_reply(engine.generate(short), PROMPT))
    assert pieces[-1].finish_reason == "content_filter"
    assert sum(len(p.ids) for p in pieces) <= at - 4


@pytest.mark.parametrize("every", [1, 7, 100])
async def test_the_flagged_token_does_not_depend_on_how_often_the_probe_reads(engine, every):
    wanted = differing()
    probe, at = await a_hit(engine, wanted)
    assert at > 7, "the probe would flag a token that is read at once"
    source = one_by_one(engine, await reply(engine, wanted))
    pieces = await said(Guards(engine, probe, window=0, every=every).check_reply(source, PROMPT))
    assert pieces[-1].finish_reason == "content_filter"
    assert sum(len(p.ids) for p in pieces) == at


async def test_a_hit_frees_the_engine(engine):
    wanted = differing(tokens=400)
    probe, _ = await a_hit(engine, differing())
    await said(Guards(engine, probe).check_reply(engine.generate(wanted), PROMPT))
    assert engine.occupancy == (0, 0)


async def test_a_reader_who_leaves_closes_the_source(engine):
    closed = asyncio.Event()

    async def source(wanted):
        try:
            async with aclosing(engine.generate(wanted)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            closed.set()

    wanted, watch = differing(tokens=300), Guards(engine, await never(engine), window=2, every=2)
    async with aclosing(watch.generate(wanted, await watch.check_prompt(wanted), source)) as pieces:
        async for _ in pieces:
            break
    assert closed.is_set()
    assert engine.occupancy == (0, 0)


async def test_a_forbidden_prompt_is_not_answered(engine):
    watch = Guards(engine, await probe_for(engine, PROMPT, 5))
    verdict = await watch.check_prompt(request())
    assert verdict.outcome == "refused"
    assert verdict.prompt > 0.5

    def nobody(_):
        raise AssertionError("it was generated")

    (piece,) = await said(watch.generate(request(), verdict, nobody))
    assert (piece.text, piece.tokens, piece.finish_reason) == ("", 0, "content_filter")


async def test_the_probe_reads_the_same_whether_or_not_the_request_is_steered(engine):
    watch = Guards(engine, await probe_for(engine, PROMPT, 5))
    running = asyncio.create_task(said(engine.generate(differing(tokens=200))))
    steered, plain = await watch.check_prompt(request()), await watch.check_prompt(request(steered=False))
    assert steered.prompt == plain.prompt
    await running


async def test_a_turn_that_would_be_refused_is_not_steered(engine):
    """What an unsteered model says first is taken for its refusal."""
    first = await reply(engine, request(steered=False, tokens=2))
    watch = Guards(engine, latch=RefusalDetector((tuple(first),), 1e-6))
    verdict = await watch.check_prompt(request(tokens=20))
    assert verdict.outcome == "unsteered"
    assert verdict.refusal > 1e-6
    made = await said(watch.generate(request(tokens=20), verdict, engine.generate))
    unsteered = await reply(engine, request(steered=False, tokens=20))
    assert [i for p in made for i in p.ids] == unsteered
    assert unsteered != await reply(engine, request(tokens=20))


async def test_a_latched_turn_does_not_pass_by_whoever_would_steer_it_again(engine):
    watch = Guards(engine, latch=RefusalDetector((tuple(await reply(engine, request(steered=False, tokens=1))),), 1e-6))
    verdict = await watch.check_prompt(request())

    def steering_again(_):
        raise AssertionError("it was steered")

    assert await said(watch.generate(request(tokens=5), verdict, engine.generate, steering_again))


async def test_the_latch_equals_a_brute_force_computation(engine):
    latch = RefusalDetector(((300, 301), (300, 302), (310,)), 0.5)
    verdict = await Guards(engine, latch=latch).check_prompt(request())
    model, wanted = small_bundle.model(len(small_bundle.tokenizer())), 0.0
    for opener in latch.openers:
        p = 1.0
        for i, token in enumerate(opener):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*PROMPT, *opener[:i]]])).logits[0, -1]
            p *= float(torch.softmax(logits.double(), -1)[token])
        wanted += p
    assert verdict.refusal == pytest.approx(wanted, rel=1e-4)


async def test_of_what_is_not_steered_nobody_asks_whether_it_would_be_refused(engine):
    verdict = await Guards(engine, latch=RefusalDetector(((300,),), 0.1)).check_prompt(request(steered=False))
    assert (verdict.outcome, verdict.refusal) == ("as asked", None)


async def test_without_guards_everything_is_as_without_a_watch(engine):
    watch, wanted = Guards(engine), differing(tokens=20)
    verdict = await watch.check_prompt(wanted)
    pieces = await said(watch.generate(wanted, verdict, engine.generate))
    assert [i for p in pieces for i in p.ids] == await reply(engine, wanted)
    assert verdict.applied_to(wanted) is wanted


async def test_a_probe_that_fails_lets_nothing_out(engine):
    """A probe of another width raises at each reading; the reply must not slip through."""
    probe = await never(engine)
    wrong = replace(probe, direction=torch.ones(3), mean=torch.zeros(3), scale=torch.ones(3))
    watch, out = Guards(engine, wrong), []
    with pytest.raises(CannotRead, match="not answered"):
        await watch.check_prompt(request())
    with pytest.raises(CannotRead, match="not sent") as failed:
        async with aclosing(watch.check_reply(engine.generate(differing()), PROMPT)) as pieces:
            async for piece in pieces:
                out.append(piece)
    assert out == []
    assert isinstance(failed.value, EngineFailed)
    assert isinstance(failed.value.__cause__, SteeringError)
    assert engine.occupancy == (0, 0)


async def test_a_probe_that_reads_no_number_lets_nothing_out(engine):
    probe = replace(await never(engine), bias=torch.tensor(float("nan")))
    with pytest.raises(CannotRead):
        await said(Guards(engine, probe).check_reply(engine.generate(differing()), PROMPT))


async def test_an_engine_that_breaks_off_lets_nothing_unread_out(engine):
    async def broken():
        async with aclosing(engine.generate(differing())) as pieces:
            async for piece in pieces:
                yield replace(piece, finish_reason=None)
                if piece.tokens >= 5:
                    return

    with pytest.raises(CannotRead, match="ended before it was checked"):
        await said(Guards(engine, await never(engine)).check_reply(broken(), PROMPT))


async def test_a_watch_is_checked_against_the_model_and_the_steered_layer(engine):
    probe = await never(engine)
    await Guards(engine, probe).check(HOOK)
    await Guards(engine).check(HOOK)
    with pytest.raises(SteeringError, match="or lower"):
        await Guards(engine, replace(probe, card=probe.card.model_copy(update={"hook": HOOK}))).check(HOOK)
    with pytest.raises(SteeringError, match="train one for it"):
        await Guards(engine, replace(probe, witness=-probe.witness)).check(HOOK)
