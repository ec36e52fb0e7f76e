"""Training data of the mood axes: each text once, in one split, with its labels."""

import json
import lzma

import pytest
import torch

from recipes.axes import GROUPS, emotions, tones, words


@pytest.fixture
def goemotions(tmp_path):
    rows = [
        {"text": "what fun", "labels": ["joy"]},
        {"text": "how dare you", "labels": ["anger", "disgust"]},
        {"text": "well", "labels": ["neutral"]},
        {"text": "fun and rage", "labels": ["joy", "anger"]},
    ]
    lines = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / "goemotions_train.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    (tmp_path / "goemotions_dev.jsonl").write_text(lines)
    return tmp_path


def test_emotions_are_groups_and_sentiment_leaves_out_what_is_neither_or_both(goemotions):
    found = emotions(goemotions, 10, 3)
    by = dict(zip(found.names, found.train_labels.T.tolist(), strict=True))
    assert by["joy"] == [1, 0, 0, 1]
    assert by["anger"] == [0, 1, 0, 1]
    assert by["disgust"] == [0, 1, 0, 0]
    assert found.train_labels[:, len(GROUPS)].isnan().tolist() == [False, False, True, True]
    assert found.train_labels[:2, len(GROUPS)].tolist() == [1, 0]
    assert len(found.test) == 3


def test_no_answer_is_learnt_from_and_judged_on(tmp_path):
    rows = [
        {"persona": p, "messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": text}]}
        for i in range(60)
        for p, text in (
            ("professional", f"Certainly {i // 2}."),
            ("witty", f"Sure thing {i // 2}!"),
            ("friendly", "Hi!"),
        )
    ]
    rows.append({"persona": "professional", "messages": [{"content": "q1"}, {"content": "Hi!"}]})
    file = tmp_path / "tones.jsonl.xz"
    file.write_bytes(lzma.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    found = tones(file)
    assert not set(found.train) & set(found.test)
    assert len({*found.train, *found.test}) == len(found.train) + len(found.test)
    assert "Hi!" not in {*found.train, *found.test}  # said in both tones
    formal = [t for t, y in zip(found.train, found.train_labels[:, 0].tolist(), strict=True) if y]
    assert formal and all(t.startswith("Certainly") for t in formal)
    numbers = [{int("".join(c for c in t if c.isdigit())) for t in side} for side in (found.train, found.test)]
    assert not numbers[0] & numbers[1]


def test_words_are_those_of_the_training_texts():
    train, test = words(["the red bridge", "the bridge!", "a bridge!"], ["The bridge is blue!", "nothing"])
    assert train.sum(1).tolist() == [2, 3, 2]  # bridge, the, !
    assert torch.equal(test[0], torch.ones(3))
    assert not test[1].any()
