"""Token kinds: which ids of a vocabulary are special, single bytes, or byte-level, found by asking the tokenizer."""

from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

BYTE_OF = {char: byte for byte, char in bytes_to_unicode().items()}
"""The byte that each character of a byte-level token stands for."""
SPACE = "\u0120"
"""The byte-level spelling of a space."""


@dataclass(frozen=True)
class TokenKinds:
    """What text is made of ids beside their spelling."""

    special: dict[int, str]
    """Ids that text leaves out, with their names."""
    fallback: dict[int, int]
    """Ids such as `<0x4B>` that stand for one byte each; their run is decoded as one."""
    size: int
    """Ids from here on are of no token; text leaves them out, too."""
    byte_level: bool
    """Whether tokens are spelled in GPT-2's alphabet of bytes."""

    def is_left_out(self, token: int) -> bool:
        """Return whether text leaves a token out."""
        return token in self.special or token >= self.size

    def bytes_of(self, tokenizer: PreTrainedTokenizerFast, token: int, text: str) -> bytes:
        """Return the exact bytes of a token that is spelled `text` in its context; parts of characters included."""
        if token in self.fallback:
            return bytes([self.fallback[token]])
        piece = tokenizer.convert_ids_to_tokens(token) if self.byte_level else None
        if isinstance(piece, str) and not self.is_left_out(token) and all(char in BYTE_OF for char in piece):
            return bytes(BYTE_OF[char] for char in piece)
        return text.encode()


@lru_cache(maxsize=8)
def token_kinds(tokenizer: PreTrainedTokenizerFast) -> TokenKinds:
    """Return the kinds of a tokenizer's ids, found once."""
    backend = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    return TokenKinds(
        {i: t.content for i, t in added.items() if t.special},
        _fallback(backend),
        max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
        _is_byte_level(backend),
    )


def _fallback(backend: Tokenizer) -> dict[int, int]:
    """Return the ids of single bytes; none where the decoder takes `<0x41>` for six letters."""
    found = {i: byte for byte in range(256) if (i := backend.token_to_id(f"<0x{byte:02X}>")) is not None}
    sample = next((i for i, byte in found.items() if 0x21 <= byte <= 0x7E), None)
    return found if sample is not None and backend.decode([sample]) == chr(found[sample]) else {}


def _is_byte_level(backend: Tokenizer) -> bool:
    space = backend.token_to_id(SPACE)
    return space is not None and backend.decode([space]) in (" ", "")
