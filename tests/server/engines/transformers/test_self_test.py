"""Start-up self-test of the cache: an architecture whose cached passes differ from a plain one is refused by name."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from server.engines.transformers import self_test
from server.engines.transformers.kv_cache import AttentionMasks, KVCache
from server.engines.transformers.self_test import self_test_cache
from steering.errors import BadBundle
from tests.support import small_bundle
from tests.support.published_models import MODELS


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return small_bundle.model(400)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_far_below_the_line(model, dtype, monkeypatch):
    monkeypatch.setitem(self_test.LARGEST_ERROR, dtype, {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype])
    assert self_test_cache(small_bundle.model(400).to(dtype)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_that_hides_the_last_token_is_noticed(dtype, monkeypatch):
    build = AttentionMasks.build
    monkeypatch.setattr(AttentionMasks, "build", lambda self, at, seen: build(self, (at - 1).clamp(min=0), seen))
    with pytest.raises(BadBundle, match=r"LlamaForCausalLM: its logits .* are off by 0\.\d+ of their spread"):
        self_test_cache(small_bundle.model(400).to(dtype))


def test_a_cache_that_forgets_is_noticed(model, monkeypatch):
    monkeypatch.setattr(KVCache, "put", lambda self, row, _kept, _length: self.wipe(row))
    with pytest.raises(BadBundle, match="are off by"):
        self_test_cache(model)


def test_an_error_of_the_architectures_own_code_is_the_reason(model):
    broken = LlamaForCausalLM(LlamaConfig(**small_bundle.model(400).config.to_dict()))
    broken.model.layers[1].self_attn.forward = lambda *_, **__: 1 / 0
    with pytest.raises(BadBundle, match="fails: division by zero"):
        self_test_cache(broken)


@pytest.mark.parametrize("name", ["LFM2 1.2B", "Mamba 130M", "BLOOM 560M"])
def test_a_state_that_is_no_keys_and_values_is_refused_before_anything_is_computed(name, monkeypatch):
    published = next(m for m in MODELS if m.name == name)
    built = AutoModelForCausalLM.from_config(published.build_config(300))
    monkeypatch.setattr(built, "forward", lambda **_: pytest.fail("computed"))
    with pytest.raises(BadBundle, match=r"(?s)cannot serve a \w+: it (has layers of|states no)"):
        self_test_cache(built)
