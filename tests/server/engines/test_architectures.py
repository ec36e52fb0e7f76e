"""Model families: small random models in the engine give the same greedy tokens as `generate()` with hooks."""

import asyncio

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from server.engines.base import Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from steering.edits import ResolvedIntervention, compile_edit
from steering.model.hooks import tap
from tests.support import small_bundle

SHAPE = {
    "hidden_size": small_bundle.WIDTH,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 4,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": small_bundle.WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}
FAMILIES = {
    "llama": (LlamaConfig, SHAPE),
    "gemma2": (Gemma2Config, SHAPE | {"sliding_window": 12, "query_pre_attn_scalar": 16}),
    "qwen2": (Qwen2Config, SHAPE),
    "qwen3": (Qwen3Config, SHAPE),
    "qwen3-sliding": (
        Qwen3Config,
        SHAPE | {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    ),
    "mistral": (MistralConfig, SHAPE | {"sliding_window": 12}),
    "gpt2": (GPT2Config, GPT2 | {"bos_token_id": 0, "eos_token_id": 4, "pad_token_id": 0}),
}
TOKENS = 20
PROMPTS = ["hello there", "what should I do this weekend", "the bridge is red and long " * 4, "how are you"]


@pytest.fixture(scope="module", params=FAMILIES)
def parts(request):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config, shape = FAMILIES[request.param]
    tok = small_bundle.tokenizer()
    model = AutoModelForCausalLM.from_config(config(**shape, vocab_size=len(tok)))
    return model.eval().to(small_bundle.DEVICE), tok


def edit(seed):
    some = [
        ResolvedIntervention(seed, "add", 5.0),
        ResolvedIntervention(seed + 5, "clamp", 4.0),
        ResolvedIntervention(seed + 9, "scale", 2.0),
    ]
    return compile_edit(some[: 1 + seed % 3], small_bundle.sae())


@torch.no_grad()
def generated(parts, ids, steered, edits):
    """What transformers' own `generate()` says with plain hooks: prompt tokens by mask, all new ones steered."""
    model, tok = parts
    mask = torch.tensor([steered], device=model.device)

    def act(one):
        def moved(x):
            here = mask[:, -x.shape[1] :] if x.shape[1] > 1 else mask.new_ones(1, 1)
            return torch.where(here[..., None], x + one.to(x.device).delta(x), x)

        return moved

    with tap(model, {hook: act(one) for hook, one in edits.items()}):
        out = model.generate(
            input_ids=torch.tensor([ids], device=model.device),
            attention_mask=torch.ones(
                1, len(ids), dtype=torch.long, device=model.device
            ),  # or it takes the first token for padding
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=0,
            suppress_tokens=[4],
        )
    return tok.decode(out[0, len(ids) :], skip_special_tokens=True)


async def test_batch_of_different_specs_says_what_generate_says(parts):
    engine = TransformersEngine(*parts, hooks=["layers.0", "layers.1"], live=3)
    sampling = Sampling(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    specs = [{}, {"layers.1": edit(1)}, {"layers.0": edit(2), "layers.1": edit(3)}, {"layers.1": edit(2)}]
    chats = [engine.encode_chat([{"role": "user", "content": p}]) for p in PROMPTS]

    async def said(i):
        wanted = Generation(chats[i].ids, chats[i].assistant, True, specs[i], f"s{i}", sampling=sampling)
        return "".join([p.text async for p in engine.generate(wanted)])

    told = await asyncio.gather(*(said(i) for i in range(4)))
    again = await asyncio.gather(*(said(i) for i in (3, 1, 0, 2)))  # out of the prefix cache, in other company
    await engine.close()
    expected = [generated(parts, c.ids, c.assistant, s) for c, s in zip(chats, specs, strict=True)]
    assert told == expected
    assert again == [expected[i] for i in (3, 1, 0, 2)]
