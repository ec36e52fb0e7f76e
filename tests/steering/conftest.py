"""Fixtures: small random models of several architectures, a random SAE, one seed."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, LlamaForCausalLM, Qwen3Config

from steering.sae import SAE, Scaling

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 97,
    "max_position_embeddings": 128,
}


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


@pytest.fixture
def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


@pytest.fixture(params=["llama", "gemma2", "qwen3", "gpt2"])
def any_model(request):
    configs = {
        "llama": LlamaConfig(**SIZES),
        "gemma2": Gemma2Config(**SIZES),
        "qwen3": Qwen3Config(**SIZES),
        "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=97, n_positions=128),
    }
    return AutoModelForCausalLM.from_config(configs[request.param]).eval()


@pytest.fixture
def sae():
    return random_sae()


def random_sae(d_in: int = 32, d_sae: int = 64, seed: int = 0, scaling: Scaling = "none") -> SAE:
    g = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=g), dim=1)
    reading = rows.T - rows.T.mean(0) if scaling == "spread" else rows.T
    return SAE(
        W_enc=reading.contiguous(),
        b_enc=torch.randn(d_sae, generator=g) * 0.1,
        W_dec=rows,
        b_dec=torch.randn(d_in, generator=g) * 0.1,
        threshold=torch.full((d_sae,), 0.05),
        scaling=scaling,
    )
