"""`/v1/analyze`: activations equal the model's own on the text, and clear errors for input that cannot be analysed."""

import pytest
import torch

from server.api.routes import analyze
from steering.catalogue.bundle import Bundle
from steering.interpret.mood_axes import FILE, MoodAxes, MoodAxis, sae_digest
from steering.model.hooks import read_stream
from tests.support import small_bundle

TEXT = "the bridge is red 👩‍👩‍👧 and long"


def look(http, **body):
    return http.post("/v1/analyze", json=body).json()


def test_activations_are_those_of_the_unsteered_model(http, bundle):
    found = look(http, text=TEXT, features=["small/1", "small/5"])
    tokenizer, opened = small_bundle.tokenizer(), Bundle.open(bundle)
    ids = [0, *tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    stream = read_stream(small_bundle.model(len(tokenizer)), torch.tensor([ids]), "layers.1")[0]
    expected = opened.sae.encode(stream)[1:]
    for feature, row in zip(found["features"], (1, 5), strict=True):
        assert feature["activations"] == pytest.approx(expected[:, row].tolist(), abs=2e-3)
    assert [t["id"] for t in found["tokens"]] == ids[1:]


def test_spans_lead_back_to_the_text(http):
    found = look(http, text=TEXT)
    assert all(TEXT[t["start"] : t["end"]] == t["text"] for t in found["tokens"])
    assert {i for t in found["tokens"] for i in range(t["start"], t["end"])} == set(range(len(TEXT)))


def test_every_feature_that_a_token_names_comes_with_its_label(http):
    found = look(http, text=TEXT, top_k=64, limit=1)
    named = {f["feature"] for t in found["tokens"] for f in t["top"]}
    assert "small/1" in named
    assert {i: found["labels"].get(i) for i in named if i in ("small/1", "small/3", "small/9")} == {
        i: label
        for i, label in {"small/1": "bridges", "small/3": "on “red”, says “long”", "small/9": None}.items()
        if i in named
    }


def test_a_chat_and_a_transcript_are_told_by_speaker(http):
    chat = look(http, messages=[{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the bridge"}])
    assert set(chat["speakers"]) == {"user", "assistant"}
    told = look(http, text="Ada: hello\nBob: the bridge")
    assert set(told["speakers"]) == {"Ada", "Bob"}
    assert [t["id"] for t in told["tokens"]] == [t["id"] for t in chat["tokens"]]
    plain = look(http, text="Ada: hello\nBob: the bridge", plain=True)
    assert len(plain["parts"]) == 1


def test_two_texts_are_held_against_each_other(http):
    found = look(http, text="the bridge is red", other={"text": "hello there, how are you"})
    assert found["compared"]
    assert {"id", "label", "here", "there", "log_odds", "sure"} <= set(found["compared"][0])


def test_a_text_longer_than_the_context_is_read_in_stretches(http):
    long = "the bridge is red and long " * 150
    found = look(http, text=long)
    assert not found["truncated"]
    assert found["tokens"][-1]["end"] == len(long)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "give either text or messages"),
        ({"text": "a", "messages": [{"role": "user", "content": "b"}]}, "give either text or messages"),
        ({"text": ""}, "text"),
        ({"text": "a", "features": ["small/999"]}, "no feature 'small/999'"),
        ({"text": "a", "unknown": 1}, "unknown"),
        ({"text": "a", "top_k": 0}, "top_k"),
        ({"messages": [{"role": "user", "content": "<|end|>"}]}, "marker"),
        ({"text": "a", "model": "other"}, "does not exist"),
    ],
)
def test_what_cannot_be_looked_at_is_named(http, body, says):
    answer = http.post("/v1/analyze", json=body)
    assert 400 <= answer.status_code < 500
    assert says in answer.json()["error"]["message"]


def test_axes_beside_the_sae_are_told_of_the_whole_and_of_each_speaker(http, bundle):
    assert look(http, text=TEXT)["axes"] == []
    figures = {k: {"value": 0.9, "low": 0.85, "high": 0.95} for k in ("auroc", "raw")}
    figures |= {k: {"value": 0.8, "low": 0.75, "high": 0.85} for k in ("bag_of_words", "length")}
    named = {"name": "red", "high": "red", "low": "not red", "source": "test", "n_train": 1, "n_test": 1}
    axis = MoodAxis.model_validate({**named, **figures, "weights": [1.0, 2.0], "bias": 0.0, "prevalence": 0.5})
    file = MoodAxes(
        method="test",
        date="2026-01-01",
        sae=sae_digest(small_bundle.sae()),
        features=(1, 2),
        axes=(axis,),
        errors=(0.0, 0.1),
    )
    folder = bundle / "revisions/r1"
    file.save(folder)
    try:
        found = look(http, text="Ada: hello\nBob: the bridge")
    finally:
        (folder / FILE).unlink()
    (told,) = found["axes"]
    assert told["shown_as"] == "score"
    assert 0.5 <= told["score"] < 1
    assert set(told["speakers"]) == {"Ada", "Bob"}
    assert told["bag_of_words"] == 0.8
    assert found["anomaly"] == {"experimental": True, "error": found["error"], "percentile": 100.0}


def test_a_chat_in_which_nobody_says_anything_is_refused(http):
    answer = http.post("/v1/analyze", json={"messages": [{"role": "user", "content": ""}]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"


@pytest.mark.parametrize(
    ("asked", "param"),
    [({"top_k": 64}, "top_k"), ({"limit": 256}, "limit"), ({"features": ["small/1"] * 64}, "features")],
)
def test_an_answer_that_would_be_too_long_is_refused_before_the_text_is_read(http, tiller, monkeypatch, asked, param):
    monkeypatch.setattr(analyze, "MAX_FIRINGS", 8 * 40)
    monkeypatch.setattr(analyze, "MAX_ACTIVATIONS", 24 * 40)
    assert http.post("/v1/analyze", json={"text": TEXT}).status_code == 200
    monkeypatch.setattr(tiller.engine, "record", None)
    refused = http.post("/v1/analyze", json={"text": "a " * 35, **asked})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    most = int(refused.json()["error"]["message"].partition("at most ")[2].split(",")[0])
    assert 1 <= most < 64
