"""lm-eval measures a steered model over HTTP: its log-likelihoods are those of the model with a hook."""

import json

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steering.catalogue.bundle import Bundle

QUESTIONS = [
    {"question": "the bridge is", "choices": ["red and long", "this weekend"], "answer": 0},
    {"question": "what should I do", "choices": ["red", "this weekend", "hello there, how are you"], "answer": 1},
    {"question": "hello there, how", "choices": ["are you", "long bridge"], "answer": 0},
    {"question": "what is red", "choices": ["the bridge is red and long", "I do"], "answer": 0},
]
STRENGTH = 7.0


@pytest.fixture(scope="module")
def everywhere(address):
    """A preset that pushes the prompt's tokens, too: what is not pushed has the log-likelihoods of the bare model."""
    steering = {"features": [{"id": "small/2", "strength": STRENGTH}], "unit": "raw", "scope": "all"}
    body = {"id": "everywhere", "name": "Everywhere", "steering": steering}
    httpx.put(f"{address}/v1/presets/everywhere", json=body).raise_for_status()
    return "small@everywhere"


@torch.no_grad()
def direct(bundle, question, choice, push):
    """Log-likelihood of a choice by a forward pass of transformers' own model with a hook of torch's own."""
    tokenizer = AutoTokenizer.from_pretrained(bundle / "model")
    model = AutoModelForCausalLM.from_pretrained(bundle / "model", dtype=torch.float32).eval()
    context, whole = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (question, f"{question} {choice}"))
    direction = Bundle.open(bundle).sae.W_dec[2]
    layer = model.model.layers[1]
    hook = layer.register_forward_hook(
        lambda _m, _i, out: (out[0] + push * direction, *out[1:]) if isinstance(out, tuple) else out + push * direction
    )
    logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    hook.remove()
    return sum(float(logprobs[i - 1, whole[i]]) for i in range(len(context), len(whole)))


def test_log_likelihoods_over_http_are_those_of_a_direct_computation(
    address, bundle, everywhere, run_program, tmp_path
):
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    found = run_program("lm_eval_task.py", address, tmp_path, bundle / "model", "small", everywhere)
    for model, push in (("small", 0.0), (everywhere, STRENGTH)):
        expected = [[direct(bundle, q["question"], c, push) for c in q["choices"]] for q in QUESTIONS]
        flat = lambda rows: [x for row in rows for x in row]  # noqa: E731
        assert flat(found[model]["replies"]) == pytest.approx(flat(expected), abs=1e-3)
    assert found["small"]["replies"] != found[everywhere]["replies"]
    best = [
        max(range(len(r)), key=r.__getitem__) == q["answer"]
        for r, q in zip(found["small"]["replies"], QUESTIONS, strict=True)
    ]
    assert found["small"]["accuracy"] == sum(best) / len(best)
