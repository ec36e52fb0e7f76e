"""OpenAI's format: log-probabilities of text completions keep every alternative, and offsets are places in the text."""

from server.chat.openai_format import ChoiceFormat
from server.engines.base import TokenLogprob


def token(text, token_id, logprob, said=None, top=()):
    return TokenLogprob(text, token_id, logprob, tuple(said or text.encode()), top)


def formatted(*tokens):
    text = "".join(t.token for t in tokens)
    return ChoiceFormat(False, True).choice(0, text, tokens, "stop")["logprobs"]


def test_alternatives_with_one_spelling_are_all_told_and_the_likeliest_has_the_text():
    same = (token("A", 1, -0.5), token("A", 2, -1.5), token("A", 3, -2.5), token("\ufffd", 4, -3.0, b"\x9e"))
    found = formatted(token("A", 1, -0.5, top=(*same, token("\ufffd", 5, -4.0, b"\xe6"))))["top_logprobs"][0]
    assert found == {"A": -0.5, "bytes:\\x41": -1.5, "token:3": -2.5, "\ufffd": -3.0, "bytes:\\xe6": -4.0}


def test_offsets_after_a_character_of_several_tokens_are_places_in_the_text():
    parts = (
        token("", 1, -1.0, b"\xe6"),
        token("", 2, -1.0, b"\x97"),
        token("日", 3, -1.0, b"\xa5"),
        token("!", 4, -1.0),
    )
    assert formatted(*parts)["text_offset"] == [0, 0, 0, 1]
