"""Guards over HTTP, on a real server: what the model would refuse is not steered, a forbidden prompt is not answered, a reply is cut."""

import json

import httpx
import pytest
import torch

from steering.hooks import read_stream
from steering.probe import WITNESS, Card, Probe
from steering.understand.detectors import Auroc
from tests import small
from tests.live import serving

BELOW = "layers.0"
HELLO = {"model": "small", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 40, "temperature": 0,
         "ignore_eos": True, "repetition_penalty": 3.0}  # fmt: skip
STEERED = HELLO | {"steering": {"features": [{"id": "small/1", "strength": 0.8}], "return": ["applied", "coherence"]}}


def said(address, body=HELLO):
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60).json()


def write_probe(folder, ids, at):
    """A probe that fires where the stream is as it is at one token of a text, and not before."""
    model = small.model(len(small.tokenizer()))
    stream = read_stream(model, torch.tensor([ids]), BELOW)[0].float()
    wanted = stream[at] / stream[at].norm()
    line = float((stream[:at] @ wanted).max() + stream[at] @ wanted) / 2
    witness = read_stream(model, torch.tensor([WITNESS]), BELOW)[0].float()
    figures = {"forbidden": 1, "benign": 1, "held_out_forbidden": 1, "held_out_benign": 1, "allowed": 0.01, "false_positives": 0.0, "found": 1.0}  # fmt: skip
    card = Card(hook=BELOW, model="small", threshold=0.5, pace=1.0, auroc=Auroc(value=1, low=1, high=1), **figures)
    probe = Probe(card, wanted, torch.tensor(-line), torch.zeros(small.WIDTH), torch.ones(small.WIDTH), witness[-1])
    probe.save(folder)
    return folder


@pytest.fixture(scope="module")
def plain(bundle, tmp_path_factory):
    """What an unguarded server says, as tokens; and the prompt's."""
    with serving(bundle, tmp_path_factory.mktemp("plain")) as (address, app):
        engine = app.state.tiller.engine
        prompt = engine.encode_chat(HELLO["messages"]).ids
        reply = said(address)["choices"][0]["message"]["content"]
        yield prompt, engine.encode(reply)[1:], reply


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_model_would_refuse_is_not_steered_and_says_so(bundle, tmp_path, plain, stream):
    _, _, reply = plain
    with serving(bundle, tmp_path, openers=tuple("abcdefghij"), tau=0.0001) as (address, _):
        body = STEERED | {"stream": stream}
        answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
        told = json.loads(answer.text.split("data: ")[1]) if stream else answer.json()
        assert told["steering"]["guards"]["outcome"] == "unsteered"
        assert told["steering"]["applied"] == []
        assert told["steering"]["warnings"][0]["code"] == "guards"
        assert answer.headers["x-tiller-steered"] == "false"
        if not stream:
            assert told["choices"][0]["message"]["content"] == reply  # as the model says it by itself
    with serving(bundle, tmp_path / "other", openers=("zzzz never",), tau=0.9) as (address, _):
        told = said(address, STEERED)["steering"]
        assert (told["guards"]["outcome"], len(told["applied"])) == ("as asked", 1)
        assert 0 <= told["guards"]["refusal"] < 0.9


def test_a_forbidden_prompt_is_not_answered_whatever_the_steering(bundle, tmp_path, plain):
    prompt, _, _ = plain
    probe = write_probe(tmp_path / "probe", list(prompt), len(prompt) - 3)
    with serving(bundle, tmp_path / "data", probe=probe) as (address, _):
        scores = []
        for body in (HELLO, STEERED):
            answer = said(address, body)
            assert answer["choices"][0] | {} == {**answer["choices"][0], "finish_reason": "content_filter"}
            assert answer["choices"][0]["message"]["content"] == ""
            assert answer["usage"]["completion_tokens"] == 0
            assert answer["steering"]["guards"]["outcome"] == "refused"
            scores.append(answer["steering"]["guards"]["prompt"])
        assert abs(scores[0] - scores[1]) <= 0.005
        why = httpx.post(f"{address}/v1/attribute", json={"messages": HELLO["messages"]}, timeout=60)
        assert (why.status_code, why.json()["error"]["code"]) == (403, "prompt_refused")
        other = HELLO | {"messages": [{"role": "user", "content": "zebra"}]}
        assert said(address, other)["choices"][0]["finish_reason"] == "length"


def test_nothing_that_is_not_finite_and_no_foreign_probe_is_served_with(bundle, tmp_path, plain):
    prompt, _, _ = plain
    probe = write_probe(tmp_path / "probe", list(prompt), len(prompt) - 3)
    card = json.loads((probe / "probe.json").read_text())
    (probe / "probe.json").write_text(json.dumps(card | {"hook": "layers.2"}))
    with pytest.raises(AssertionError), serving(bundle, tmp_path / "data", probe=probe):
        pass
