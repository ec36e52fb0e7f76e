"""Token bytes: exact also for tokens with a part of a character."""

from server.engines.token_text import token_text
from tests.support import small_bundle


def test_tokens_that_make_a_character_together_have_its_bytes(tmp_path):
    tokenizer = small_bundle.tokenizer()
    ids = tokenizer.encode("ä€😀", add_special_tokens=False)
    found = [token_text(tokenizer, i, -1.0) for i in ids]

    assert len(ids) > 3
    assert b"".join(bytes(t.bytes) for t in found).decode() == "ä€😀"


def test_an_impossible_token_has_the_lowest_number_that_json_knows():
    assert token_text(small_bundle.tokenizer(), 3, float("-inf")).logprob == -9999.0
