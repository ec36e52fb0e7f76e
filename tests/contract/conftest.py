"""Fixtures: both engines on the shipped bundle; vLLM where it is installed: `make test-vllm`."""

import os
from importlib.util import find_spec

import pytest
import pytest_asyncio
import torch

from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from tests.support import small_bundle
from tests.support.paths import HARBOR

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

ENGINES = ["transformers", *(["vllm"] if find_spec("vllm") else [])]
VLLM = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 128,
    "block_size": 32,
    "gpu_memory_utilization": 0.3,
}


@pytest.fixture(scope="session")
def bundle():
    return Bundle.open(HARBOR)


@pytest.fixture(scope="session")
def catalogue(bundle):
    return Catalogue([bundle])


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def engine(request, bundle):
    if request.param == "transformers":
        from server.engines.transformers.engine import TransformersEngine

        torch.set_num_threads(1)
        engine = TransformersEngine.load(
            bundle.model_path, hooks=[bundle.info.hook], device=small_bundle.DEVICE, dtype="float32", queue=100
        )
    else:
        from server.engines.vllm.engine import VLLMEngine

        folders = {bundle.info.hook: bundle.folder / "revisions" / bundle.info.revision}
        engine = await VLLMEngine.load(
            bundle.model_path,
            folders=folders,
            revision=bundle.info.revision,
            queue=100,
            reads=["layers.2"],
            arguments=VLLM,
        )
    yield engine
    await engine.close()
