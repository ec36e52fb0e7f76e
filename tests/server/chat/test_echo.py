"""Echo: a text completion after its prompt, with the steered log-probabilities of both, as evaluation harnesses ask for it."""

import json

import pytest
import torch

from server.chat.prepare import MOST_SCORED
from steering.edits import ResolvedIntervention, compile_edit
from steering.model.hooks import steer
from tests.support import small_bundle

ASKED = {"model": "small", "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1, "seed": 1}
TEXT = "the ships are in the harbor and the bridge is red"
STEERED = {"features": [{"id": "small/1", "strength": 0.9}], "scope": "all"}


def ask(http, prompt, **more):
    answer = http.post("/v1/completions", json={**ASKED, "prompt": prompt, **more})
    assert answer.status_code == 200, answer.json()
    return answer.json()


def streamed(http, prompt, **more):
    body = {**ASKED, "prompt": prompt, "stream": True, **more}
    with http.stream("POST", "/v1/completions", json=body) as answer:
        chunks = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    return [choice for chunk in chunks for choice in chunk["choices"]]


@torch.no_grad()
def rows_of(tiller, ids, raw=0.0):
    """Log-probabilities after each token, by the model with a hook that adds the feature at every token."""
    edit = compile_edit([ResolvedIntervention(1, "add", raw)], small_bundle.sae())
    with steer(tiller.engine.model, {tiller.bundle.info.hook: edit} if raw else {}):
        return torch.log_softmax(tiller.engine.model(input_ids=torch.tensor([ids])).logits[0].float(), -1)


def assert_scored(logprobs, rows, ids):
    own, top = logprobs["token_logprobs"], logprobs["top_logprobs"]
    assert own[0] is None and top[0] is None
    for i, token in enumerate(ids[1:], start=1):
        assert own[i] == pytest.approx(float(rows[i - 1, token]), abs=1e-4)
        assert max(top[i].values()) == pytest.approx(float(rows[i - 1].max()), abs=1e-4)
        assert (own[i] == max(top[i].values())) == bool(rows[i - 1, token] == rows[i - 1].max())


@pytest.fixture
def ids(tiller):
    return [*tiller.engine.encode(TEXT)]


@pytest.mark.parametrize("steering", [None, STEERED])
@pytest.mark.parametrize("most", [0, 1])
def test_prompt_comes_back_with_the_steered_log_probabilities_of_its_tokens(http, tiller, ids, steering, most):
    answer = ask(http, ids, steering=steering, max_tokens=most)
    (choice,), applied = answer["choices"], answer["steering"]["applied"]
    raw = applied[0]["raw"] if steering else 0.0
    assert len(choice["logprobs"]["tokens"]) == len(ids) + most
    assert_scored(choice["logprobs"], rows_of(tiller, ids, raw), ids)
    assert choice["text"].startswith(TEXT) and (choice["text"] == TEXT) == (most == 0)
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == most
    assert answer["usage"]["prompt_tokens"] == len(ids)


def test_steering_of_the_prompt_changes_its_log_probabilities(http, ids):
    own = [ask(http, ids, steering=s)["choices"][0]["logprobs"]["token_logprobs"][1:] for s in (None, STEERED)]
    assert max(abs(a - b) for a, b in zip(*own, strict=True)) > 0.1


def test_tokens_joined_are_the_text_and_offsets_are_their_places(http):
    choice = ask(http, TEXT, max_tokens=4, ignore_eos=True)["choices"][0]
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert "".join(tokens) == choice["text"]
    for token, offset in zip(tokens, offsets, strict=True):
        assert choice["text"][offset : offset + len(token)] == token


def test_text_and_its_token_ids_are_scored_alike(http, ids):
    text, tokens = (ask(http, prompt)["choices"][0] for prompt in (TEXT, ids))
    assert text["text"] == tokens["text"]
    assert text["logprobs"]["token_logprobs"][1:] == pytest.approx(tokens["logprobs"]["token_logprobs"][1:], abs=1e-4)


@pytest.mark.parametrize("steering", [None, STEERED])
def test_lists_of_prompts_are_scored_each_as_if_alone(http, tiller, ids, steering):
    prompts = [ids[:n] for n in (3, len(ids), 5, len(ids))]  # the last one's prefix is known by then
    answer = ask(http, prompts, steering=steering)
    raw = answer["steering"]["applied"][0]["raw"] if steering else 0.0
    for choice, prompt in zip(answer["choices"], prompts, strict=True):
        assert_scored(choice["logprobs"], rows_of(tiller, prompt, raw), prompt)


def test_last_token_counts_also_where_it_ends_the_reply(http, ids):
    """lm-eval leaves out the last one by its place."""
    end = {"logit_bias": {str(small_bundle.tokenizer().eos_token_id): 100}}
    choice = ask(http, ids, **end)["choices"][0]
    assert choice["finish_reason"] == "stop" and choice["text"] == TEXT
    assert len(choice["logprobs"]["token_logprobs"]) == len(ids) + 1


@pytest.mark.parametrize("most", [0, 6])
@pytest.mark.parametrize("logprobs", [None, 2])
def test_stream_begins_with_the_prompt(http, most, logprobs):
    more = {"max_tokens": most, "logprobs": logprobs, "ignore_eos": True, "n": 2}
    whole, chunks = ask(http, TEXT, **more)["choices"], streamed(http, TEXT, **more)
    for i in range(2):
        own = [c for c in chunks if c["index"] == i]
        assert "".join(c["text"] for c in own) == whole[i]["text"]
        assert own[0]["text"].startswith(TEXT)
        for key in ("tokens", "token_logprobs", "text_offset") if logprobs else ():
            found = [x for c in own if c["logprobs"] for x in c["logprobs"][key]]
            assert found[0] == whole[i]["logprobs"][key][0]
            assert found[1:] == pytest.approx(whole[i]["logprobs"][key][1:], abs=1e-4) or key == "tokens"


def test_echo_without_log_probabilities_is_text_alone(http):
    choice = ask(http, TEXT, logprobs=None, max_tokens=0)["choices"][0]
    assert (choice["text"], choice["logprobs"]) == (TEXT, None)


def test_verdict_on_the_reply_is_not_of_the_prompt(http):
    more = {"max_tokens": 8, "ignore_eos": True, "steering": {**STEERED, "return": ["coherence"]}}
    echoed, alone = (ask(http, TEXT, echo=echo, **more)["steering"]["coherence"] for echo in (True, False))
    assert echoed == alone


def test_guard_that_eases_keeps_the_prompt_once(http, ids):
    more = {"max_tokens": 40, "ignore_eos": True, "steering": {**STEERED, "guard": True}}
    choice = ask(http, ids, **more)["choices"][0]
    assert choice["text"].count(TEXT) == 1
    assert len(choice["logprobs"]["tokens"]) == len(ids) + 40


def test_too_many_log_probabilities_for_one_answer_are_refused(http, ids):
    prompts = [ids * (480 // len(ids))] * 128
    assert 21 * 128 * len(prompts[0]) > MOST_SCORED
    answer = http.post("/v1/completions", json={**ASKED, "prompt": prompts, "logprobs": 20})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"
    assert "fewer at a time" in answer.json()["error"]["message"]


def test_no_tokens_without_echo_is_refused_with_the_way_out(http):
    error = http.post("/v1/completions", json={**ASKED, "prompt": TEXT, "max_tokens": 0, "echo": False}).json()["error"]
    assert error["param"] == "max_tokens" and "set echo to true" in error["message"]
