"""A wheel with a tiny Llama as GGUF, in a folder that pip finds it in without a network."""

import zipfile
from pathlib import Path

import gguf
import numpy as np

from steering.files import sha256
from steering.model.package import ModelPackage

D, HEADS, LAYERS, MLP = 32, 2, 2, 64
WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ċ", "th", "the"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MEMBER = "tiny_model/tiny.Q4_1.gguf"


def make_wheel(folder: Path) -> ModelPackage:
    """Write `tiny_model-1.0-py3-none-any.whl` into `folder`, and return its package."""
    folder.mkdir(parents=True, exist_ok=True)
    file, wheel = folder / "tiny.gguf", folder / "tiny_model-1.0-py3-none-any.whl"
    _write_gguf(file)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, MEMBER)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return ModelPackage(
        requirement="tiny-model==1.0",
        wheel_sha256=sha256(wheel),
        gguf=MEMBER,
        gguf_sha256=sha256(file),
        megabytes=1,
    )


def _write_gguf(file: Path) -> None:
    random = np.random.default_rng(0)
    out = gguf.GGUFWriter(file, "llama")
    out.add_name("tiny")
    out.add_block_count(LAYERS)
    out.add_context_length(128)
    out.add_embedding_length(D)
    out.add_feed_forward_length(MLP)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_rope_dimension_count(D // HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(len(WORDS))
    out.add_tokenizer_model("gpt2")
    out.add_token_list(WORDS)
    out.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(WORDS) - 3))
    out.add_token_merges(["t h", "th e"])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_chat_template(TEMPLATE)

    def add(name: str, *shape: int) -> None:
        out.add_tensor(name, random.normal(0, 0.1, shape).astype(np.float32))

    add("token_embd.weight", len(WORDS), D)
    add("output_norm.weight", D)
    for i in range(LAYERS):
        add(f"blk.{i}.attn_norm.weight", D)
        add(f"blk.{i}.ffn_norm.weight", D)
        for part in ("q", "k", "v"):
            add(f"blk.{i}.attn_{part}.weight", D, D)
        add(f"blk.{i}.attn_output.weight", D, D)
        add(f"blk.{i}.ffn_gate.weight", MLP, D)
        add(f"blk.{i}.ffn_up.weight", MLP, D)
        add(f"blk.{i}.ffn_down.weight", D, MLP)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
