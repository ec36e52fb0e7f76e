"""vLLM on SmolLM2-135M-Instruct with its bundle: a mixed batch of sixteen says what the transformers engine says.

Collected in the environment of `make test-vllm` only.
"""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import torch

from server.engines.base import Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.spec import Intervention, Scope, SteeringSpec
from tests.support.paths import ROOT

pytest.importorskip("vllm", reason="vLLM is not installed here; `make test-vllm` installs it beside")
pytestmark = pytest.mark.asyncio(loop_scope="module")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
TOKENS = 16
QUESTIONS = ("Who are you?", "How do I bake bread?", "Tell me a story.", "What is money for?")
SCOPES: tuple[Scope, ...] = ("all", "assistant", "generated")
FEATURES = 5
"""Each of the first working features steers three of the requests; one in four is unsteered."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(ROOT / "sae_weights" / "smollm2")


def requests(engine: TransformersEngine, bundle: Bundle) -> list[Generation]:
    """Sixteen requests with a spec each, on any engine that encodes chats."""
    ready = [f for f in bundle.features if f.calibration and f.calibration.works][:FEATURES]
    found = []
    for i in range(16):
        item = Intervention(id=ready[i % FEATURES].id, strength=0.8)
        spec = SteeringSpec(features=(item,) if i % 4 else (), scope=SCOPES[i % 3])
        resolved, chat = (
            Catalogue([bundle]).resolve(spec),
            engine.encode_chat([{"role": "user", "content": QUESTIONS[i % 4]}]),
        )
        found.append(
            Generation(
                chat.ids,
                chat.steered(spec.where),
                True,
                resolved.edits,
                spec.fingerprint,
                interventions=resolved.interventions,
                revision=bundle.info.revision,
                sampling=Sampling(temperature=0, max_tokens=TOKENS, ignore_eos=True),
            )
        )
    return found


async def replies(engine: TransformersEngine, bundle: Bundle) -> list[list[int]]:
    async def one(request: Generation) -> list[int]:
        pieces: AsyncIterator = engine.generate(request)
        return [i async for piece in pieces for i in piece.ids]

    return list(await asyncio.gather(*(one(r) for r in requests(engine, bundle))))


async def both(checkpoint: str, bundle: Bundle, dtype: str) -> tuple[list[list[int]], list[list[int]]]:
    """Replies of the transformers engine and of vLLM, in one dtype."""
    from server.engines.vllm.engine import VLLMEngine

    torch.set_num_threads(2)
    own = TransformersEngine.load(checkpoint, hooks=[bundle.info.hook], device="cpu", dtype=dtype)
    expected = await replies(own, bundle)
    await own.close()
    arguments = {
        "dtype": dtype,
        "enforce_eager": True,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 256,
        "block_size": 32,
        "gpu_memory_utilization": 0.3,
        "max_model_len": 512,
    }
    folders = {bundle.info.hook: bundle.files}
    vllm = await VLLMEngine.load(checkpoint, folders=folders, revision=bundle.info.revision, arguments=arguments)
    found = await replies(vllm, bundle)  # pyright: ignore[reportArgumentType] - has the methods that are used
    await vllm.close()
    return expected, found


async def test_a_mixed_batch_of_sixteen_says_the_same_in_float32(checkpoint, bundle):
    expected, found = await both(checkpoint, bundle, "float32")
    assert found == expected


async def test_in_bfloat16_a_mixed_batch_begins_the_same(checkpoint, bundle):
    """The two add in different orders, so where two tokens are nearly as likely they may part."""
    expected, found = await both(checkpoint, bundle, "bfloat16")
    assert sum(a[0] == b[0] for a, b in zip(expected, found, strict=True)) >= 14
    assert sum(a[:4] == b[:4] for a, b in zip(expected, found, strict=True)) >= 10
