"""Log-probabilities of a prompt in vLLM are those of one plain pass of transformers over the steered prompt."""

import asyncio
from dataclasses import replace

import pytest
import torch

from steering.model.hooks import steer
from tests.server.engines.vllm.test_engine import GREEDY, LONG, SPECS, model, request  # noqa: F401 - a fixture

pytestmark = pytest.mark.asyncio(loop_scope="module")
SCORED = replace(GREEDY, max_tokens=2, logprobs=1, prompt_logprobs=2)


def asked(engine, spec, **sampling):
    wanted = request(engine, LONG, SPECS[spec], sampling=replace(SCORED, **sampling))
    return replace(wanted, steered=(True,) * len(wanted.ids))


@torch.no_grad()
def assert_scored(model, generation, scores):  # noqa: F811
    with steer(model, generation.edits, where=torch.tensor([generation.steered])):
        rows = torch.log_softmax(model(input_ids=torch.tensor([generation.ids])).logits[0].float(), -1)
    assert [s.token_id for s in scores] == [*generation.ids]
    assert scores[0].logprob is None
    for row, score in zip(rows, scores[1:], strict=False):
        assert score.logprob == pytest.approx(float(row[score.token_id]), abs=1e-3)
        assert [v for _, v in score.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-3)


async def test_prompts_of_different_specs_are_scored_side_by_side(engine, model):  # noqa: F811
    wanted = [asked(engine, i % len(SPECS)) for i in range(6)]
    found = await asyncio.gather(*(collect(engine, g) for g in wanted))
    for generation, pieces in zip(wanted, found, strict=True):
        assert_scored(model, generation, pieces[0].prompt)
        assert not any(p.prompt for p in pieces[1:])
        assert pieces[-1].tokens == 2


async def test_known_prefix_is_scored_too_and_no_tokens_end_at_the_prompt(engine, model):  # noqa: F811
    await collect(engine, asked(engine, 1, prompt_logprobs=None))
    generation = asked(engine, 1, max_tokens=0)
    (piece,) = await collect(engine, generation)
    assert (piece.text, piece.tokens, piece.ids, piece.finish_reason) == ("", 0, (), "length")
    assert_scored(model, generation, piece.prompt)


async def collect(engine, generation):
    return [p async for p in engine.generate(generation)]
