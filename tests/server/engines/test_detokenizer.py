"""Text stream: of any ids, of any tokenizer, the stream's text is that of all of them at once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engines.detokenizer import Detokenizer, TextStream
from server.engines.token_text import TokenSpeller
from tests.support import small_bundle
from tests.support.published_tokenizers import byte_fallback

TOKENIZERS = {
    "llama": byte_fallback("llama"),
    "gemma": byte_fallback("gemma"),
    "metaspace": byte_fallback("metaspace"),
    "byte_level": small_bundle.tokenizer(),
}
EVERY = pytest.mark.parametrize("name", TOKENIZERS)
MANY = settings(max_examples=300, deadline=None)


def ids_of(name, longest=40):
    """Random ids, bytes more often than the rest, and some that no tokenizer has."""
    size = len(TOKENIZERS[name])
    return st.lists(st.integers(0, size + 1) | st.integers(3, 258), max_size=longest)


def whole(tokenizer, ids):
    return tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)


def streamed(stream, ids):
    return "".join(stream.push(i) for i in ids) + stream.flush()


@EVERY
@given(data=st.data())
@MANY
def test_the_streams_text_is_that_of_all_ids(name, data):
    tokenizer, ids = TOKENIZERS[name], data.draw(ids_of(name))
    assert streamed(TextStream(tokenizer), ids) == whole(tokenizer, ids)


@EVERY
@given(data=st.data())
@MANY
def test_a_reply_continues_the_text_before_it(name, data):
    tokenizer = TOKENIZERS[name]
    before = tokenizer("Hello the world, tomato", add_special_tokens=False)["input_ids"]
    ids = data.draw(ids_of(name))
    said = whole(tokenizer, before)
    assert said + streamed(TextStream(tokenizer, before), ids) == whole(tokenizer, [*before, *ids])


@EVERY
@given(data=st.data())
@MANY
def test_no_text_is_taken_back_and_the_named_tokens_joined_are_the_text(name, data):
    tokenizer, ids = TOKENIZERS[name], data.draw(ids_of(name))
    stream, given_out = TextStream(tokenizer), ""
    speller = TokenSpeller(tokenizer, stream)
    named = []
    for token in ids:
        speller.add(token, -1.0, [(token, -1.0), (0, -2.0)])
        given_out += stream.push(token)
        assert (given_out + stream.pending).startswith(given_out)
        named += speller.take()
        assert given_out.startswith("".join(t.token for t in named))
    given_out += stream.flush()
    named += speller.take()
    assert [t.token_id for t in named] == ids
    assert "".join(t.token for t in named) == given_out
    if "\ufffd" not in given_out and name != "metaspace":
        assert b"".join(bytes(t.bytes) for t in named).decode() in (given_out, f" {given_out}")


@EVERY
@given(data=st.data())
@MANY
def test_with_stop_strings_the_text_ends_before_the_first_of_them(name, data):
    tokenizer, ids = TOKENIZERS[name], data.draw(ids_of(name))
    stops = tuple(data.draw(st.lists(st.sampled_from(["\n", "K", "Paris", "world", "é", " "]), min_size=1, max_size=3)))
    text, stopped, shown = Detokenizer(tokenizer, stops, include_stop=False), False, ""
    for n, token in enumerate(ids, 1):
        more, stopped = text.push(token)
        shown += more
        if stopped:
            said = whole(tokenizer, ids[:n])
            assert shown == said[: min(said.find(s) for s in stops if s in said)]
            assert not any(s in whole(tokenizer, ids[: n - 1]) for s in stops)
            return
    assert shown + text.flush() == whole(tokenizer, ids)


def test_text_of_a_broken_run_of_bytes_is_what_the_decoder_says_and_the_rest_goes_on():
    tokenizer = TOKENIZERS["llama"]
    ids = [tokenizer.convert_tokens_to_ids(t) for t in ("▁the", "<0x4B>", "<0x9E>", "▁world")]
    stream = TextStream(tokenizer)
    assert [stream.push(i) for i in ids] == ["the", "", "", "\ufffd\ufffd world"]


@pytest.mark.parametrize(
    ("piece", "text"), [("▁Paris", " Paris"), ("▁▁▁▁", "    "), ("<0x0A>", "\n"), ("Paris", "Paris")]
)
def test_the_first_token_after_a_prompt_keeps_its_space(piece, text):
    tokenizer = TOKENIZERS["llama"]
    before = tokenizer("Hello", add_special_tokens=False)["input_ids"]
    assert streamed(TextStream(tokenizer, [1, *before]), [tokenizer.convert_tokens_to_ids(piece)]) == text


@EVERY
def test_each_alternative_is_spelled_as_the_continuation_of_the_text(name):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer("Hello the world", add_special_tokens=False)["input_ids"]
    stream = TextStream(tokenizer)
    for token in ids:
        expected = stream.spelling(token)
        assert stream.push(token) == expected


@pytest.mark.parametrize("include", [False, True])
def test_a_special_token_that_is_a_stop_string_ends_the_reply_though_text_leaves_it_out(include):
    tokenizer = TOKENIZERS["llama"]
    user, world = (tokenizer.convert_tokens_to_ids(t) for t in ("<|user|>", "▁world"))
    text = Detokenizer(tokenizer, ("<|user|>",), include_stop=include)
    assert text.push(world) == ("world", False)
    assert text.push(user) == ("<|user|>" * include, True)


def test_a_stop_string_may_begin_in_a_special_token_and_end_in_text():
    tokenizer = TOKENIZERS["llama"]
    user, world = (tokenizer.convert_tokens_to_ids(t) for t in ("<|user|>", "▁world"))
    text = Detokenizer(tokenizer, ("<|user|> world",), include_stop=False)
    assert [text.push(i) for i in (world, user)] == [("world", False), ("", False)]
    assert text.push(world) == ("", True)
    other = Detokenizer(tokenizer, ("<|user|> Paris",), include_stop=False)
    assert "".join(other.push(i)[0] for i in (world, user, world)) + other.flush() == "world world"


def test_a_stop_string_that_ends_too_early_is_text_and_one_that_ends_later_stops():
    tokenizer = TOKENIZERS["gemma"]
    tomato, end = (tokenizer.convert_tokens_to_ids(t) for t in ("▁tomato", "K"))
    text = Detokenizer(tokenizer, ("tomato", "oK", "xtomatoK"), include_stop=False)
    assert text.push(tomato, searching=False) == (" toma", False)
    assert text.push(end) == ("t", True)
    early = Detokenizer(tokenizer, ("tomato",), include_stop=False)
    assert early.push(tomato, searching=False) == (" toma", False)
    assert early.push(end) == ("toK", False)
