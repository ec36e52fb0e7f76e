"""The command `llm` with models of an OpenAI-compatible API: replies as JSON on standard output."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

address, question, _ = sys.argv[1:4]
folder = Path(tempfile.mkdtemp())
(folder / "extra-openai-models.yaml").write_text(
    "".join(
        f"- model_id: {model}\n  model_name: {model}\n  api_base: {address}/v1\n"
        for model in ("small", "small@bridge", "small@nobody")
    )
)
LLM = str(Path(sys.executable).parent / "llm")


def ask(model, *more):
    command = [
        LLM,
        "prompt",
        "-m",
        model,
        "-o",
        "temperature",
        "0",
        "-o",
        "max_tokens",
        "12",
        "--no-log",
        *more,
        question,
    ]
    environment = {**os.environ, "LLM_USER_PATH": str(folder), "OPENAI_API_KEY": "none"}
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)


sys.stdout.write(
    json.dumps(
        {
            "plain": ask("small", "--no-stream").stdout.decode().removesuffix("\n"),
            "streamed": ask("small").stdout.decode().removesuffix("\n"),
            "persona": ask("small@bridge", "--no-stream").stdout.decode().removesuffix("\n"),
            "error": ask("small@nobody", "--no-stream").stderr.decode(),
        }
    )
)
