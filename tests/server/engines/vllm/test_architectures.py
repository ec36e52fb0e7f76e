"""Model families in vLLM: steered as by hooks on the same weights, or refused with the reason."""

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from server.engines.vllm.engine import VLLMEngine
from steering.errors import BadBundle
from tests.server.engines.vllm.test_engine import LONG, SPECS, blocked, by_the_book, request, said
from tests.support import small_bundle

pytestmark = pytest.mark.asyncio(loop_scope="module")
ENDS = {"bos_token_id": 0, "eos_token_id": 4, "pad_token_id": 0}
SHAPE = {  # heads of 64: vLLM's CPU kernels know no smaller ones
    "hidden_size": small_bundle.WIDTH,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    **ENDS,
}
GPT2 = {"n_embd": small_bundle.WIDTH, "n_layer": 3, "n_head": 1, "n_positions": 256, "initializer_range": 0.2, **ENDS}
GEMMA2 = {"sliding_window": 32, "query_pre_attn_scalar": 16, "attn_implementation": "eager"}
OPT = {"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 1, "word_embed_proj_dim": 64}
FAMILIES = {
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, SHAPE | GEMMA2),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, SHAPE | {"hidden_size": 64, "num_attention_heads": 1}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, SHAPE),
    "mistral": (MistralForCausalLM, MistralConfig, SHAPE),
    "gpt2": (GPT2LMHeadModel, GPT2Config, GPT2),
}


def written(folder, family):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build, config, shape = family
    tok = small_bundle.tokenizer()
    model = build(config(**shape, vocab_size=len(tok))).eval()
    model.get_input_embeddings().weight.data.mul_(0.1)  # else a model whose head is tied repeats its last token
    model.save_pretrained(folder / "model")
    tok.save_pretrained(folder / "model")
    small_bundle.sae().save(folder / "r1", hook="layers.1", model="small")
    return model


def load(folder, **more):
    arguments = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 64,
        "block_size": 32,
        "gpu_memory_utilization": 0.2,
        "max_model_len": 256,
        **more,
    }
    return VLLMEngine.load(
        str(folder / "model"), folders={"layers.1": folder / "r1"}, revision="r1", arguments=arguments
    )


@pytest.mark.parametrize("family", FAMILIES)
async def test_family_is_steered_as_by_hooks(family, tmp_path):
    model = written(tmp_path, FAMILIES[family])
    engine = await load(tmp_path)
    try:
        wanted = [request(engine, LONG, s, sampling=blocked) for s in SPECS[:3]]
        told = [(await said(engine, g))[0] for g in wanted]
    finally:
        await engine.close()
    assert told == [by_the_book(model, g) for g in wanted]
    assert told[0] != told[1]


async def test_unknown_family_is_refused_with_the_reason(tmp_path):
    written(tmp_path, (OPTForCausalLM, OPTConfig, OPT | ENDS | {"max_position_embeddings": 256}))
    with pytest.raises(BadBundle, match=r"no decoder layers in a OPTForCausalLM"):
        await load(tmp_path)
