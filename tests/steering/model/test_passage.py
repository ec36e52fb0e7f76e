"""Passage: tokens map to the exact characters and speaker of the input, whatever the text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steering.errors import BadChat
from steering.model.passage import (
    NOBODY,
    Part,
    any_passage,
    chat_passage,
    parse_transcript,
    text_passage,
    transcript_passage,
)
from tests.support import small_bundle

TOKENIZER = small_bundle.tokenizer()
TRICKY = ["héllo 👩‍👩‍👧 wörld", "橋は赤い。 長い\n\n  橋", "  a\t b \n", "🌉", "e\u0301 x", "\u200bzero\u00a0width"]


def covered(passage, part):
    """The characters that the tokens of a part stand for, each once."""
    found = set()
    for owner, (start, end) in zip(passage.part, passage.spans, strict=True):
        if owner == part:
            found |= set(range(start, end))
    return "".join(c for i, c in enumerate(passage.parts[part].text) if i in found)


@pytest.mark.parametrize("text", TRICKY)
def test_every_character_of_a_text_belongs_to_a_token(text):
    passage = text_passage(TOKENIZER, text)
    assert covered(passage, 0) == text
    assert TOKENIZER.decode([i for i, p in zip(passage.ids, passage.part, strict=True) if p == 0]) == text


@pytest.mark.parametrize("text", TRICKY)
def test_every_character_of_a_chat_belongs_to_a_token(text):
    passage = chat_passage(
        TOKENIZER, [{"role": "user", "content": text}, {"role": "assistant", "content": f"x{text}x"}]
    )
    assert covered(passage, 0) == text
    assert covered(passage, 1) == f"x{text}x"
    assert passage.part[0] == NOBODY


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
    lambda t: t.strip() and "<" not in t and "[" not in t), min_size=1, max_size=4))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_tokens_of_any_chat_stand_for_what_they_decode_to(contents):
    roles = ["user", "assistant"] * 2
    passage = chat_passage(TOKENIZER, [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)])
    for i, content in enumerate(contents):
        assert covered(passage, i) == content


def test_the_same_words_twice_are_told_apart():
    passage = chat_passage(TOKENIZER, [{"role": "user", "content": "red"}, {"role": "assistant", "content": "red"}])
    assert covered(passage, 0) == covered(passage, 1) == "red"
    assert [p for p in passage.part if p != NOBODY] == sorted(p for p in passage.part if p != NOBODY)


def test_a_template_that_strips_still_leads_back():
    tokenizer = small_bundle.tokenizer()
    tokenizer.chat_template = small_bundle.TEMPLATE.replace("m['content']", "m['content'] | trim")
    passage = chat_passage(tokenizer, [{"role": "user", "content": "  red bridge \n"}])
    start, end = passage.spans[next(i for i, p in enumerate(passage.part) if p == 0)]
    assert "  red bridge \n"[start:end].startswith("red"[: end - start])
    assert covered(passage, 0) == "red bridge"


def test_a_transcript_is_known_by_its_speakers():
    text = "Ada: Hello there.\nBob: How are you?\n  I am well.\nAda: Good."
    assert parse_transcript(text) == [
        Part("Ada", "Hello there."),
        Part("Bob", "How are you?\n  I am well."),
        Part("Ada", "Good."),
    ]
    assert parse_transcript("Note: this is one line") is None
    assert parse_transcript("a text\nAda: with a colon\nBob: later") is None
    assert parse_transcript("see https://x.y/z: a link") is None


def test_speakers_become_roles_and_keep_their_names():
    passage = any_passage(TOKENIZER, "Human: hello\nAI: the bridge\nHuman: is red")
    assert [p.speaker for p in passage.parts] == ["Human", "AI", "Human"]
    swapped = transcript_passage(TOKENIZER, [Part("AI", "hello"), Part("Zed", "there")])
    plain = chat_passage(TOKENIZER, [{"role": "assistant", "content": "hello"}, {"role": "user", "content": "there"}])
    assert swapped.ids == plain.ids
    strangers = transcript_passage(TOKENIZER, [Part("Zed", "hello"), Part("Ada", "there")])
    asked = chat_passage(TOKENIZER, [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "there"}])
    assert strangers.ids == asked.ids


def test_markers_in_a_text_are_text():
    passage = text_passage(TOKENIZER, "say <|end|> now")
    assert TOKENIZER.convert_tokens_to_ids("<|end|>") not in passage.ids
    assert covered(passage, 0) == "say <|end|> now"


def test_nothing_to_look_at_says_so():
    with pytest.raises(BadChat, match="no text"):
        text_passage(TOKENIZER, "")
