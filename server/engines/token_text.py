"""Token text: a token as logprobs report it, with its exact bytes."""

import re

from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from server.engines.base import TokenLogprob

LEAST = -9999.0
"""Replacement for minus infinity, which JSON does not have; OpenAI's value."""
_BYTES = {char: byte for byte, char in bytes_to_unicode().items()}
_FALLBACK = re.compile("<0x([0-9A-F]{2})>")


def token_text(
    tokenizer: PreTrainedTokenizerFast, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
) -> TokenLogprob:
    """A token with its log-probability; for a part of a character, the bytes are those of the part."""
    text = str(tokenizer.decode([token]))
    return TokenLogprob(text, token, max(logprob, LEAST), tuple(_bytes(tokenizer, token, text)), top)


def _bytes(tokenizer: PreTrainedTokenizerFast, token: int, text: str) -> bytes:
    if "\ufffd" not in text:
        return text.encode()
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if fallback := _FALLBACK.fullmatch(piece):
        return bytes([int(fallback[1], 16)])
    if all(char in _BYTES for char in piece):
        return bytes(_BYTES[char] for char in piece)
    return text.encode()
