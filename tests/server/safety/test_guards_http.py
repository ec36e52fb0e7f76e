"""Guards over HTTP, on a real server: refusals stay unsteered, forbidden prompts are refused, replies are cut off."""

import asyncio
import json

import httpx
import pytest
import torch

from steering.evaluate.classifiers import Auroc
from steering.model.hooks import read_stream
from steering.safety.probe import WITNESS, Card, Probe
from tests.support import small_bundle
from tests.support.live_server import asking, serving
from tests.support.waiting import until

ADMIN = "the-first-key-of-this-server-is-long-enough"
BELOW = "layers.0"
HELLO = {"model": "small", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 40, "temperature": 0,
         "ignore_eos": True, "repetition_penalty": 3.0}  # fmt: skip
STEERED = HELLO | {"steering": {"features": [{"id": "small/1", "strength": 0.8}], "return": ["applied", "coherence"]}}


def said(address, body=HELLO):
    return httpx.post(f"{address}/v1/chat/completions", json=body).json()


def write_probe(folder, ids, at):
    """A probe that fires where the stream is as it is at one token of a text, and not before."""
    model = small_bundle.model(len(small_bundle.tokenizer()))
    stream = read_stream(model, torch.tensor([ids]), BELOW)[0].float()
    wanted = stream[at] / stream[at].norm()
    line = float((stream[:at] @ wanted).max() + stream[at] @ wanted) / 2
    witness = read_stream(model, torch.tensor([WITNESS]), BELOW)[0].float()
    figures = {"forbidden": 1, "benign": 1, "held_out_forbidden": 1, "held_out_benign": 1, "allowed": 0.01, "false_positives": 0.0, "found": 1.0}  # fmt: skip
    card = Card(hook=BELOW, model="small", threshold=0.5, pace=1.0, auroc=Auroc(value=1, low=1, high=1), **figures)
    probe = Probe(
        card, wanted, torch.tensor(-line), torch.zeros(small_bundle.WIDTH), torch.ones(small_bundle.WIDTH), witness[-1]
    )
    probe.save(folder)
    return folder


@pytest.fixture(scope="module")
def plain(bundle, tmp_path_factory):
    """What an unguarded server says, as tokens; and the prompt's."""
    with serving(bundle, tmp_path_factory.mktemp("plain")) as (address, app):
        engine = app.state.served_model.engine
        prompt = engine.encode_chat(HELLO["messages"]).ids
        reply = said(address)["choices"][0]["message"]["content"]
        yield prompt, engine.encode(reply)[1:], reply


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_model_would_refuse_is_not_steered_and_says_so(bundle, tmp_path, plain, stream):
    _, _, reply = plain
    with serving(bundle, tmp_path, openers=tuple("abcdefghij"), tau=0.0001) as (address, _):
        body = STEERED | {"stream": stream}
        answer = httpx.post(f"{address}/v1/chat/completions", json=body)
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
        why = httpx.post(f"{address}/v1/attribute", json={"messages": HELLO["messages"]})
        assert (why.status_code, why.json()["error"]["code"]) == (403, "prompt_refused")
        other = HELLO | {"messages": [{"role": "user", "content": "zebra"}]}
        assert said(address, other)["choices"][0]["finish_reason"] == "length"


RAW = {"model": "small", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
RAW |= {"steering": {"features": [{"id": "small/1", "strength": 0.8}]}}


def completed(address, prompt, **about):
    return httpx.post(f"{address}/v1/completions", json=RAW | {"prompt": prompt} | about)


def of_choices(answer):
    """What each choice of a stream was told of its own, and how it ended."""
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    own, ended = {}, {}
    for choice in (c for event in events for c in event["choices"]):
        own.setdefault(choice["index"], {}).update(choice.get("steering", {}))
        ended[choice["index"]] = choice["finish_reason"] or ended.get(choice["index"])
    return events[0]["steering"], own, ended


@pytest.fixture(scope="module")
def forbidding(bundle, tmp_path_factory):
    """A server whose probe fires at one token of "hello there"; and the tokens of that text."""
    folder, tokenizer = tmp_path_factory.mktemp("forbidding"), small_bundle.tokenizer()
    ids = [0, *tokenizer("hello there", add_special_tokens=False)["input_ids"]]
    probe = write_probe(folder / "probe", ids, len(ids) - 1)
    with serving(bundle, folder / "data", probe=probe) as (address, _):
        yield address, ids


def test_every_one_of_several_prompts_is_read_as_text_or_as_tokens(forbidding):
    address, ids = forbidding
    fine = ["zebra", [0, 260, 261]]
    for forbidden in ("hello there", ids, ids[1:]):  # without the beginning, its tokens are as forbidden
        for place in range(3):
            prompts = [*fine[:place], forbidden, *fine[place:]]
            answer = completed(address, prompts).json()
            ended = [c["finish_reason"] for c in answer["choices"]]
            assert ended == ["content_filter" if i == place else "length" for i in range(3)]
            assert answer["choices"][place]["text"] == ""
            assert answer["usage"]["completion_tokens"] == 16
            assert answer["steering"]["guards"]["outcome"] == "as asked"
            assert answer["choices"][place]["steering"]["guards"]["outcome"] == "refused"
            assert f"changed the steering of the prompts {place};" in answer["steering"]["warnings"][-1]["message"]


@pytest.mark.parametrize("path", ["completions", "chat/completions", "steering/compare"])
def test_nobody_reads_on_for_who_has_left_and_what_was_to_be_read_counts(bundle, tmp_path, path):
    probe = write_probe(tmp_path / "probe", [0, 260, 261], 2)
    with serving(bundle, tmp_path / "data", probe=probe, admin_key=ADMIN) as (address, app):
        rates, reads, given_up, spent = app.state.rate_limiter, [], [], []
        tokens = rates.count_tokens

        async def forever(texts, hook):
            reads.append(texts)
            try:
                await asyncio.Event().wait()
            finally:
                given_up.append(texts)

        async def noted(caller, n):
            await tokens(caller, n)
            spent.append(n)

        app.state.served_model.engine.record, rates.count_tokens = forever, noted
        key = {"name": "ada", "role": "user", "limits": {"tokens": 4}}
        made = httpx.post(f"{address}/v1/keys", json=key, headers={"Authorization": f"Bearer {ADMIN}"})
        mine = {"Authorization": f"Bearer {made.json()['secret']}"}
        many = {"variants": [{"name": str(i)} for i in range(8)]} if "compare" in path else {}
        body = {"model": "small", "prompt": ["zebra"] * 20} if path == "completions" else HELLO | many
        with asking(address, f"/v1/{path}", body, **mine):
            until(lambda: reads)
        until(lambda: spent)
        later = httpx.post(f"{address}/v1/{path}", json=body, headers=mine).json()
        assert "4 tokens a minute" in later["error"]["message"]
        assert given_up == reads
        assert len(reads) <= 2


def test_a_prompt_of_one_token_is_read_too(bundle, tmp_path):
    forbidden, other = small_bundle.tokenizer()("hello there", add_special_tokens=False)["input_ids"]
    probe = write_probe(tmp_path / "probe", [0, forbidden], 1)
    with serving(bundle, tmp_path / "data", probe=probe) as (address, _):
        ended = [
            c["finish_reason"] for c in completed(address, [[forbidden], [0, forbidden], [other]]).json()["choices"]
        ]
    assert ended[:2] == ["content_filter"] * 2
    assert ended[2] == "length"


def test_a_stream_says_which_prompts_were_not_answered(forbidding):
    address, ids = forbidding
    steering, own, ended = of_choices(completed(address, ["zebra", ids], stream=True, n=2))
    assert steering["guards"]["outcome"] == "as asked"
    assert "prompts 1;" in steering["warnings"][-1]["message"]
    assert [own[i].get("guards", {}).get("outcome") for i in range(4)] == [None, None, "refused", "refused"]
    assert [ended[i] for i in range(4)] == ["length"] * 2 + ["content_filter"] * 2


def test_what_all_prompts_are_refused_for_is_said_once(forbidding):
    address, ids = forbidding
    answer = completed(address, [ids, ids]).json()
    assert answer["steering"]["guards"]["outcome"] == "refused"
    assert not any("steering" in choice for choice in answer["choices"])
    assert [w["code"] for w in answer["steering"]["warnings"]].count("guards") == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_the_model_would_refuse_is_told_apart_from_those_that_are_steered(bundle, tmp_path, stream):
    prompts = ["the bridge", "hello there"]
    with serving(bundle, tmp_path / "read", openers=("a", "b"), tau=0.5) as (address, _):
        found = completed(address, prompts).json()
        scores = [c.get("steering", found["steering"])["guards"]["refusal"] for c in found["choices"]]
    assert scores[0] != scores[1]
    latched = scores.index(max(scores))
    with serving(bundle, tmp_path / "data", openers=("a", "b"), tau=sum(scores) / 2) as (address, _):
        answer = completed(address, prompts, stream=stream)
        told, own, _ = of_choices(answer) if stream else (answer.json()["steering"], {}, {})
        mine = own[latched] if stream else answer.json()["choices"][latched]["steering"]
        assert [a["id"] for a in told["applied"]] == ["small/1"]
        assert f"prompts {latched};" in told["warnings"][-1]["message"]
        assert (mine["applied"], mine["hash"], mine["guards"]["outcome"]) == ([], "s_0", "unsteered")
        assert answer.headers["x-tiller-steered"] == "true"
        assert sorted(answer.headers["x-tiller-steering"].split(", ")) == sorted(["s_0", told["hash"]])
        if not stream:
            alone = [completed(address, p).json() for p in prompts]
            assert [c["text"] for c in answer.json()["choices"]] == [a["choices"][0]["text"] for a in alone]
            plain = completed(address, prompts[latched], steering=None).json()
            assert alone[latched]["choices"][0]["text"] == plain["choices"][0]["text"]


def test_nothing_that_is_not_finite_and_no_foreign_probe_is_served_with(bundle, tmp_path, plain):
    prompt, _, _ = plain
    probe = write_probe(tmp_path / "probe", list(prompt), len(prompt) - 3)
    card = json.loads((probe / "probe.json").read_text())
    (probe / "probe.json").write_text(json.dumps(card | {"hook": "layers.2"}))
    with pytest.raises(AssertionError), serving(bundle, tmp_path / "data", probe=probe):
        pass
