"""Preemption in vLLM: requests that are preempted and recomputed are steered as before."""

import asyncio
from dataclasses import replace

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tests.server.engines.vllm.test_architectures import SHAPE, load, written
from tests.server.engines.vllm.test_engine import LONG, SPECS, blocked, by_the_book, request, said

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_preempted_requests_say_the_same(tmp_path):
    model = written(tmp_path, (LlamaForCausalLM, LlamaConfig, SHAPE))
    engine = await load(tmp_path, max_num_seqs=6, num_gpu_blocks_override=13, disable_log_stats=False)
    long = replace(blocked, max_tokens=64)
    wanted = [request(engine, LONG, s, sampling=long, tenant=str(i)) for i, s in enumerate(SPECS[:3] * 2)]
    blocks = sum((len(g.ids) + 64) // 32 + 1 for g in wanted)
    assert sum(len(g.ids) // 32 + 1 for g in wanted) > 6 and blocks > 13  # all cannot end side by side
    try:
        told = [ids for ids, _ in await asyncio.gather(*(said(engine, g) for g in wanted))]
        preempted = await counted(engine)
    finally:
        await engine.close()
    assert preempted > 0
    assert told == [by_the_book(model, g) for g in wanted]


async def counted(engine):
    """How often vLLM interrupted somebody, by its own metrics."""
    from prometheus_client import REGISTRY

    for _ in range(300):  # they are told a moment after the last reply
        samples = [s for m in REGISTRY.collect() for s in m.samples if "preemption" in s.name]
        if found := sum(s.value for s in samples if not s.name.endswith("_created")):
            return found
        await asyncio.sleep(0.2)
    return 0
