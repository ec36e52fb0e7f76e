"""Log-probabilities of a prompt's tokens, steered as asked, are those of one plain pass over the whole prompt."""

import asyncio
from dataclasses import replace

import pytest
import torch

from server.engines.base import EngineFailed, Generation, Sampling
from server.engines.transformers import batch
from server.engines.transformers.engine import TransformersEngine
from steering.edits import ResolvedIntervention, compile_edit
from steering.model.hooks import steer
from tests.support import small_bundle

HOOK = "layers.1"
IDS = tuple(5 + (i * 37) % 200 for i in range(60))
SCORED = Sampling(temperature=0, max_tokens=3, ignore_eos=True, logprobs=1, prompt_logprobs=2)


@pytest.fixture
async def engine(parts):
    engine = TransformersEngine(*parts, hooks=[HOOK], live=4, queue=32)
    yield engine
    await engine.close()


def edits(*items):
    return {HOOK: compile_edit([ResolvedIntervention(*i) for i in items], small_bundle.sae())}


SPECS = [{}, edits((1, "add", 6.0)), edits((2, "clamp", 9.0), (3, "ablate", 0.0))]


def asked(spec=0, ids=IDS, steered=None, **sampling):
    marks = (True,) * len(ids) if steered is None else steered
    return Generation(ids, marks, True, SPECS[spec], f"s_{spec}", sampling=replace(SCORED, **sampling))


async def pieces_of(engine, generation):
    return [p async for p in engine.generate(generation)]


async def scores_of(engine, generation):
    first, *others = await pieces_of(engine, generation)
    assert not any(p.prompt for p in others)
    return first.prompt


@torch.no_grad()
def by_the_book(parts, generation):
    """Logits of the whole prompt in one pass without a cache."""
    model, _ = parts
    ids = torch.tensor([generation.ids], device=model.device)
    with steer(model, generation.edits, where=torch.tensor([generation.steered])):
        return torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].float(), -1).cpu()


def assert_equal(scores, parts, generation, top=2):
    expected = by_the_book(parts, generation)
    assert [s.token_id for s in scores] == [*generation.ids]
    assert scores[0].logprob is None and scores[0].top == ()
    for row, score in zip(expected, scores[1:], strict=False):
        assert score.logprob == pytest.approx(float(row[score.token_id]), abs=1e-4)
        assert [v for _, v in score.top] == pytest.approx(row.topk(top).values.tolist(), abs=1e-4)
        assert all(v == pytest.approx(float(row[i]), abs=1e-4) for i, v in score.top)


@pytest.mark.parametrize("spec", range(3))
async def test_prompt_is_scored_as_one_plain_steered_pass(engine, parts, spec):
    generation = asked(spec)
    assert_equal(await scores_of(engine, generation), parts, generation)


async def test_only_the_marked_tokens_are_steered(engine, parts):
    generation = asked(1, steered=tuple(20 <= i < 40 for i in range(len(IDS))))
    assert_equal(await scores_of(engine, generation), parts, generation)
    assert await scores_of(engine, generation) != await scores_of(engine, asked(1))


async def test_what_is_in_the_prefix_cache_is_scored_too(engine, parts):
    await pieces_of(engine, asked(1, prompt_logprobs=None))
    (again, *_) = await pieces_of(engine, asked(1, prompt_logprobs=None))
    assert again.cached > 0
    generation = asked(1)
    assert_equal(await scores_of(engine, generation), parts, generation)


@pytest.mark.parametrize("rows", [1, 7, 59, 60])
async def test_prompt_is_scored_in_chunks(engine, parts, monkeypatch, rows):
    monkeypatch.setattr(batch, "SCORED", rows * engine.vocab_size)
    widths, forward = [], engine._batch._forward
    monkeypatch.setattr(
        engine._batch, "_forward", lambda *a, **k: (widths.append((len(a[1]), a[4].numel())), forward(*a, **k))[1]
    )
    generations = [asked(i % 3, IDS[: 30 + i]) for i in range(4)]
    found = await asyncio.gather(*(scores_of(engine, g) for g in generations))
    for scores, generation in zip(found, generations, strict=True):
        assert_equal(scores, parts, generation)
    assert max(sequences * times for sequences, times in widths) <= max(rows, 4)  # 4 in a step of decoding


async def test_neighbours_that_are_not_scored_change_nothing(engine, parts):
    scored = [asked(i % 3, IDS[i:]) for i in range(4)]
    plain = [asked(i % 3, IDS[i:] + IDS, prompt_logprobs=None) for i in range(4)]
    alone = [[p.ids for p in await pieces_of(engine, g)] for g in plain]
    found = await asyncio.gather(*(pieces_of(engine, g) for pair in zip(scored, plain, strict=True) for g in pair))
    for generation, pieces in zip(scored, found[::2], strict=True):
        assert_equal(pieces[0].prompt, parts, generation)
    assert [sum((p.ids for p in pieces), ()) for pieces in found[1::2]] == [sum(ids, ()) for ids in alone]


async def test_reply_is_the_same_as_without_scores(engine):
    def said(pieces):
        return "".join(p.text for p in pieces), sum((p.ids for p in pieces), ())

    assert said(await pieces_of(engine, asked(1))) == said(await pieces_of(engine, asked(1, prompt_logprobs=None)))


async def test_no_tokens_end_at_the_prompt(engine, parts):
    generation = asked(1, max_tokens=0)
    (piece,) = await pieces_of(engine, generation)
    assert (piece.text, piece.tokens, piece.ids, piece.finish_reason) == ("", 0, (), "length")
    assert_equal(piece.prompt, parts, generation)
    assert engine.occupancy == (0, 0)


async def test_one_token_prompt_has_nothing_to_score(engine):
    (piece,) = await pieces_of(engine, asked(ids=IDS[:1], max_tokens=0))
    assert [(s.token_id, s.logprob) for s in piece.prompt] == [(IDS[0], None)]


async def test_token_that_ends_the_reply_is_counted_where_the_prompt_is_scored(engine):
    """Clients leave out the last token by its place, whatever it is."""
    (first, *_) = await pieces_of(engine, asked(max_tokens=1))
    (found,) = await pieces_of(engine, asked(max_tokens=1, stop_token_ids=first.ids))
    assert found.finish_reason == "stop" and found.text == ""
    assert [(t.token, t.token_id, t.logprob) for t in found.logprobs] == [("", *first.ids, first.logprobs[0].logprob)]


async def test_overflow_fails_this_request_alone(engine, parts):
    edit = SPECS[1][HOOK]
    huge = {HOOK: replace(edit, push=torch.full_like(edit.push, torch.inf))}
    broken = replace(asked(), edits=huge, fingerprint="s_x")
    results = await asyncio.gather(scores_of(engine, broken), scores_of(engine, asked(1)), return_exceptions=True)
    assert isinstance(results[0], EngineFailed)
    assert_equal(results[1], parts, asked(1))
