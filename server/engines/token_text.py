"""Token text: tokens as logprobs report them: joined they are the text, and their bytes are exact."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerFast

from server.engines.base import ScoredToken, TokenLogprob
from server.engines.detokenizer import TextStream

LEAST = -9999.0
"""Replacement for minus infinity, which JSON does not have; OpenAI's value."""


def token_text(
    tokenizer: PreTrainedTokenizerFast, token: int, logprob: float, stream: TextStream | None = None
) -> TokenLogprob:
    """A token with its log-probability, spelled as the continuation of `stream`, by default at the beginning of a text."""
    stream = stream or TextStream(tokenizer)
    text = stream.spelling(token)
    return TokenLogprob(text, token, max(logprob, LEAST), tuple(stream.kinds.bytes_of(tokenizer, token, text)))


def prompt_text(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[ScoredToken]) -> tuple[TokenLogprob, ...]:
    """The tokens of a prompt, spelled as its text has them; special ones have no text."""
    stream = TextStream(tokenizer)
    speller = TokenSpeller(tokenizer, stream)
    for token in tokens:
        speller.add(token.token_id, token.logprob, token.top)
        stream.push(token.token_id)
    stream.flush()
    return speller.take()


class TokenSpeller:
    """Log-probabilities of the tokens of one reply, each of which gets its text when its stream has it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stream: TextStream) -> None:
        self._tokenizer, self._stream = tokenizer, stream
        self._nameless: list[TokenLogprob] = []

    def add(self, token: int, logprob: float | None, others: Iterable[tuple[int, float]]) -> None:
        """Note a token and its alternatives, the likeliest first; call it before the token is pushed to the stream."""
        top = tuple(token_text(self._tokenizer, i, value, self._stream) for i, value in others)
        self._nameless.append(TokenLogprob("", token, None if logprob is None else max(logprob, LEAST), (), top))

    def take(self) -> tuple[TokenLogprob, ...]:
        """Return the tokens that have their text by now; each once."""
        names, self._stream.named = self._stream.named, []
        ready, self._nameless = self._nameless[: len(names)], self._nameless[len(names) :]
        return tuple(self._with_name(t, name) for t, name in zip(ready, names, strict=False))

    def _with_name(self, token: TokenLogprob, name: str) -> TokenLogprob:
        """Spell a token as its text has it, also among its own alternatives; a special token has no text."""
        kinds = self._stream.kinds
        known = () if kinds.is_left_out(token.token_id) else kinds.bytes_of(self._tokenizer, token.token_id, name)
        top = (replace(t, token=name, bytes=tuple(known)) if t.token_id == token.token_id else t for t in token.top)
        return replace(token, token=name, bytes=tuple(known), top=tuple(top))
