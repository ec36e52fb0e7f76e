"""OpenAI's response format: choices, chunks and logprobs from generated text."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from server.engines.base import TokenLogprob


@dataclass(frozen=True)
class ChoiceFormat:
    """Format of one request's choices: chat messages or plain text, with or without logprobs."""

    is_chat: bool
    with_logprobs: bool

    def choice(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob], finish_reason: str | None
    ) -> dict[str, Any]:
        """Fields of one choice of a complete response."""
        details = self._logprobs(logprobs)
        if not self.is_chat:
            return _text_choice(index, text, details, finish_reason)
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": details, "finish_reason": finish_reason}

    def chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
        """One choice of a chunk; `offset` is the character position of its first token in the text so far."""
        details = self._logprobs(logprobs, offset)
        if not self.is_chat:
            return _text_choice(index, text, details, None)
        return chat_delta(index, {"content": text}) | {"logprobs": details}

    def last(self, index: int, finish_reason: str) -> dict[str, Any]:
        """The choice of the last chunk: its finish reason."""
        if self.is_chat:
            return chat_delta(index, {}, finish_reason)
        return _text_choice(index, "", None, finish_reason)

    def _logprobs(self, tokens: Sequence[TokenLogprob], offset: int = 0) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        if self.is_chat:
            content = [_token(t) | {"top_logprobs": [_token(o) for o in t.top]} for t in tokens]
            return {"content": content, "refusal": None}
        starts = accumulate((len(t.token) for t in tokens), initial=offset)
        return {
            "tokens": [t.token for t in tokens],
            "token_logprobs": [t.logprob for t in tokens],
            "top_logprobs": [None if t.logprob is None else _by_spelling(t.top) for t in tokens],
            "text_offset": [start for start, _ in zip(starts, tokens, strict=False)],
        }


def chat_delta(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """One choice of a chat chunk."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _text_choice(index: int, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _by_spelling(top: Sequence[TokenLogprob]) -> dict[str, float | None]:
    """Alternatives by their text, the likeliest first; of several with one text, the others are named by their bytes."""
    found = dict[str, float | None]()
    for t in top:
        name = t.token if t.token not in found else "bytes:" + "".join(f"\\x{byte:02x}" for byte in t.bytes)
        found.setdefault(name if name not in found else f"token:{t.token_id}", t.logprob)
    return found


def _token(t: TokenLogprob) -> dict[str, Any]:
    return {"token": t.token, "logprob": t.logprob, "bytes": list(t.bytes)}
