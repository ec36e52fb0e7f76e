"""Fixtures: a real vLLM on the small bundle, collected only in the environment of `make test-vllm`; the self-test's own tests need no vLLM."""

import os
from importlib.util import find_spec

import pytest
import pytest_asyncio
import torch

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

collect_ignore = (
    []
    if find_spec("vllm")
    else [f"test_{n}.py" for n in ("architectures", "engine", "preemption", "prompt_scores", "serve")]
)
HOOKS = ("layers.1", "layers.2")
"""Both are read by the same small SAE."""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    from tests.support import small_bundle

    torch.set_num_threads(1)
    return small_bundle.write_bundle(
        tmp_path_factory.mktemp("bundle"), head_dim=64
    )  # vLLM's CPU kernels know no smaller heads


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(bundle):
    from server.engines.vllm.engine import VLLMEngine

    folders = dict.fromkeys(HOOKS, bundle / "revisions/r1")
    arguments = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "block_size": 32,
        "gpu_memory_utilization": 0.3,
        "max_model_len": 512,
    }
    engine = await VLLMEngine.load(str(bundle / "model"), folders=folders, revision="r1", arguments=arguments)
    yield engine
    await engine.close()
