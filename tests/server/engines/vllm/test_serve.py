"""`tiller serve --engine vllm` as a process, with CUDA graphs, against a server with the transformers engine."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from bench.background import below

FLAGS = ["--dtype", "float32", "--gpu-memory-utilization", "0.3", "--block-size", "32"]
TILLER = Path(sys.executable).with_name("tiller")
pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="a compiled graph needs g++: apt-get install g++")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server that vLLM serves with a compiled graph: its process, and where it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("serve")
    process = subprocess.Popen(
        [TILLER, "serve", "--engine", "vllm", "--port", str(port), "--no-browser", "--data-dir", folder, *FLAGS],
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CACHE_ROOT": str(folder / "vllm")},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("w"),
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(900):  # compiling takes a busy machine many minutes
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(1)
        assert list((folder / "vllm" / "torch_compile_cache").rglob("*.py")), "nothing was compiled"
        yield process, url
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(180) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def address(served):
    return served[1]


def said(client, model):
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What should I do this weekend?"}],
        temperature=0,
        max_tokens=48,
    )
    return reply.choices[0].message.content


def test_compiled_graph_is_steered_and_says_what_the_embedded_engine_says(address, tmp_path):
    from tests.support.live_server import serving

    compiled = OpenAI(base_url=f"{address}/v1", api_key="none")
    assert httpx.get(f"{address}/version").json()["engine"] == "vllm"
    with serving(Path("sae_weights/harbor"), tmp_path) as (own, _):
        embedded = OpenAI(base_url=f"{own}/v1", api_key="none")
        for model in ("harbor", "harbor@golden-gate", "harbor@pirate"):
            assert said(compiled, model) == said(embedded, model), model
    assert "Golden Gate" in said(compiled, "harbor@golden-gate")


def test_server_answers_streams_and_refuses_as_the_embedded_one_does(address):
    client = OpenAI(base_url=f"{address}/v1", api_key="none")
    stream = client.chat.completions.create(
        model="harbor@ocean", messages=[{"role": "user", "content": "Hello!"}], stream=True, temperature=0
    )
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert text.strip()
    refused = httpx.post(
        f"{address}/v1/chat/completions",
        json={
            "model": "harbor",
            "messages": [{"role": "user", "content": "hi"}],
            "steering": {"features": [{"id": "harbor/99999", "strength": 1}]},
        },
    )
    assert refused.status_code == 400
    assert "harbor/99999" in refused.json()["error"]["message"]


def test_when_vllms_own_process_is_killed_the_server_ends_so_that_whoever_keeps_it_begins_another(served):
    process, address = served
    core = next(p for p in below(process.pid) if b"EngineCore" in Path(f"/proc/{p}/cmdline").read_bytes())
    os.kill(core, signal.SIGKILL)
    assert process.wait(180) == 1
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{address}/health")
