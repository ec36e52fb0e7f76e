"""A small real bundle: a random Llama with tokenizer and chat template, a random SAE, features and presets."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from recipes.train_model import SPECIALS, byte_level_tokenizer
from steering.sae import SAE
from tests.support import fake_device

TEMPLATE = (
    "<|endoftext|>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WIDTH, FEATURES, CONTEXT = 64, 48, 512
DEVICE = os.environ.get("TILLER_TEST_DEVICE", "cpu")
"""Device of the models that tests serve: `TILLER_TEST_DEVICE=cuda pytest tests/contract tests/server`."""
if DEVICE == "pretended":
    fake_device.pretend()
    DEVICE = "cuda"


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["the bridge is red and long", "what should I do this weekend", "hello there, how are you"] * 3
    return tokenizer_of(words, vocab=400, specials=SPECIALS, template=TEMPLATE)


def tokenizer_of(texts: Sequence[str], *, vocab: int, specials: list[str], template: str) -> PreTrainedTokenizerFast:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return byte_level_tokenizer(texts, split, vocab=vocab, specials=specials, template=template)


def model(vocab: int, head_dim: int = 16) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=WIDTH,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=4,
        pad_token_id=0,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def sae() -> SAE:
    g = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(FEATURES, WIDTH, generator=g), dim=1)
    return SAE(
        W_enc=rows.T.contiguous(),
        b_enc=torch.zeros(FEATURES),
        W_dec=rows,
        b_dec=torch.zeros(WIDTH),
        threshold=torch.full((FEATURES,), 0.1),
    )


def write_bundle(folder: Path, head_dim: int = 16) -> Path:
    """Write the bundle `small` with the features 1 (labelled, measured), 2 and the presets `bridge`, `calm`."""
    tok = tokenizer()
    tok.save_pretrained(folder / "model")
    model(len(tok), head_dim).save_pretrained(folder / "model")
    sae().save(folder / "revisions/r1", hook="layers.1", model="small")
    rows = [
        {
            "index": 1,
            "label": "bridges",
            "label_source": "hand",
            "typical_max": 4.0,
            "max_activation": 5.0,
            "dose": 6.0,
            "density": 0.02,
            "sweet_spot": {"low": 0.4, "high": 1.0, "method": "test", "n": 16, "date": "2026-01-01"},
        },
        {"index": 2, "label": "<img src=x onerror=alert(1)>", "label_source": "hand", "typical_max": 3.0, "dose": 5.0},
        {"index": 3, "label": "on “red”, says “long”", "label_source": "auto", "typical_max": 3.0},
    ]
    presets = [
        {
            "id": "bridge",
            "name": "Bridge",
            "readonly": True,
            "steering": {"features": [{"id": "small/1", "strength": 0.8}]},
            "starter_prompts": ["What should I do this weekend?"],
            "sampling": {"temperature": 0.5},
        },
        {
            "id": "calm",
            "name": "Calm",
            "readonly": True,
            "system_prompt": "Be calm.",
            "steering": {"features": [{"id": "small/2", "strength": -0.5}, {"id": "small/3", "strength": 0.2}]},
        },
    ]
    info = {"name": "small", "model": "model", "hook": "layers.1", "revision": "r1", "typical_norm": 8.0}
    (folder / "bundle.json").write_text(json.dumps(info))
    (folder / "revisions/r1/features.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "presets.json").write_text(json.dumps(presets))
    return folder
