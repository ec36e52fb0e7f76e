"""Detokenizer: token ids to text, with stop strings.

Text that could be the beginning of a stop string, or an incomplete character, is held back until it
is decided.
"""

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast


class Detokenizer:
    """One reply's text, token by token."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: tuple[str, ...], *, include_stop: bool) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop, self._include = stop, include_stop
        self._held = ""

    def push(self, token_id: int) -> tuple[str, bool]:
        """Append one token; return the new text and whether a stop string ended the reply."""
        self._held += self._stream.step(self._backend, token_id) or ""
        found = [(at, s) for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            at, text = min(found)
            shown, self._held = self._held[: at + len(text) * self._include], ""
            return shown, True
        keep = max((_overlap(self._held, s) for s in self._stop), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown, False

    def flush(self) -> str:
        """Return the text held back, at the end of the reply."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
