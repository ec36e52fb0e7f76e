"""Small world: large enough, deterministic per seed, and a role only where the prompt asks for it."""

import json
from itertools import islice

import pytest

from recipes.bundle import _forget, _label, shipped_scale
from recipes.smallworld.chats import SmallWorld, read_chats
from recipes.smallworld.sentences import plural
from recipes.smallworld.topics import CONCEPTS, read_topics
from recipes.tones import TONES

LOUD = ("arr", "hmph", "beep", "ahoy", "o gentle")


def chats(seed, count, **more):
    return list(islice(SmallWorld(seed, **more), count))


def test_seed_names_a_corpus():
    assert chats(3, 50) == chats(3, 50) != chats(4, 50)


def test_world_has_three_hundred_topics_each_with_enough_to_say():
    topics = read_topics()
    assert len({t.name for t in topics}) == len(topics) >= 300
    assert {t.name for t in topics} >= set(CONCEPTS)
    for topic in topics:
        assert len(topic.facts) >= 4, topic.name
        assert topic.acts, topic.name
        assert len(topic.firsts) >= 2, topic.name


def test_no_tone_without_a_cause():
    asks = {a for t in TONES.values() for a in t.asks}
    for chat in chats(0, 500):
        told = " ".join(m["content"] for m in chat if m["role"] != "assistant")
        said = " ".join(m["content"].lower() for m in chat if m["role"] == "assistant")
        if not any(a in told for a in asks):
            assert not said.startswith(LOUD), chat


def test_found_chats_are_mixed_in(tmp_path):
    rows = [
        {"persona": "caring", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]},
        {"persona": "witty", "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
        {
            "persona": "caring",
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "z" * 999}],
        },
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_chats(str(tmp_path / "c.jsonl"), "caring")
    assert found == [rows[0]["messages"]]
    share = sum(c == found[0] for c in chats(0, 1000, chats=found)) / 1000
    assert 0.03 < share < 0.1


@pytest.mark.parametrize(
    ("one", "many"),
    [("dog", "dogs"), ("fox", "foxes"), ("butterfly", "butterflies"), ("boy", "boys"), ("mouse", "mice")],
)
def test_plurals(one, many):
    assert plural(one) == many


def trial(scale, hits, logprob):
    return {"scale": scale, "hits": hits, "logprob": logprob}


def test_persona_ships_at_the_gentlest_scale_that_shows_it():
    tried = [trial(0.8, 0.5, -1.0), trial(1.0, 0.9, -1.4), trial(1.3, 1.0, -3.0)]
    assert shipped_scale(tried, hits=0.8) == 0.95
    assert shipped_scale(tried, hits=0.8, logprob=-1.2) == 0.9


def test_bundling_twice_is_bundling_once():
    row = {"index": 1, "label": "on “gate”", "label_source": "auto"}
    first = dict(row)
    _label(first, "golden-gate", 3.0, "2026-01-01")
    again = dict(first)
    _forget(again)
    assert again == row
    _label(again, "golden-gate", 3.0, "2026-01-01")
    assert again == first
