"""Detokenizer: token ids to text, with stop strings; the text is that of all ids at once.

Text is given out when no later token can change it: what could begin a stop string waits, and an incomplete character,
and a run of single-byte tokens, which the decoder turns into U+FFFD as a whole if any of it is invalid. Stop strings are
searched for in what the model has said, special tokens included, though the text leaves those out.
"""

import codecs
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from server.engines.token_kinds import token_kinds

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
TAIL = 8
"""Tokens of the text before that are decoded first; more where they make no text."""


class Detokenizer:
    """One reply's text, token by token; `before` are the ids of the text that it continues."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        stop: tuple[str, ...],
        *,
        include_stop: bool,
        before: Sequence[int] = (),
    ) -> None:
        self.stream = TextStream(tokenizer, before)
        self._stop, self._include = stop, include_stop
        self._held, self._shown = "", list[bool]()
        """Text not given out yet, and for each character whether it will be: the names of special tokens will not."""
        self._young = 0
        """Number of held characters in which no stop string may end."""

    def push(self, token: int, *, searching: bool = True) -> tuple[str, bool]:
        """Append one token; return the new text and whether a stop string ended the reply.

        Where not `searching`, a stop string that ends with this token does not end the reply.
        """
        text = self.stream.push(token)
        if not self._stop:
            return text, False
        self._hold(text, shown=True)
        self._hold(self.stream.kinds.special.get(token, ""), shown=False)
        pending = self.stream.pending
        if not searching:
            self._young = len(self._held) + len(pending)
        elif found := self._find(self._held + pending):
            at, stop = found
            self._hold(pending, shown=True)
            return self._take(at) + stop * self._include, True
        keep = max((_overlap(self._held, s) for s in self._stop), default=0)
        return self._take(len(self._held) - keep), False

    def flush(self) -> str:
        """Return the text held back, at the end of the reply."""
        return self._take(len(self._held)) + self.stream.flush()

    def _hold(self, text: str, *, shown: bool) -> None:
        self._held += text
        self._shown += [shown] * len(text)

    def _find(self, text: str) -> tuple[int, str] | None:
        """Return the first stop string, and where it begins."""
        found = [(text.find(s, max(0, self._young - len(s) + 1)), s) for s in self._stop]
        return min(((at, s) for at, s in found if at >= 0), default=None)

    def _take(self, n: int) -> str:
        """Return what is shown of the first `n` held characters, and forget them."""
        text = "".join(c for c, shown in zip(self._held[:n], self._shown[:n], strict=True) if shown)
        self._held, self._shown, self._young = self._held[n:], self._shown[n:], max(0, self._young - n)
        return text


class TextStream:
    """The text that ids add to the text of `before`, which is not given out again. Its methods never raise for an id."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, before: Sequence[int] = ()) -> None:
        self.kinds = token_kinds(tokenizer)
        self.named: list[str] = []
        """Text of each token that has its text, until somebody takes it; all of them joined are the text."""
        self._backend = tokenizer.backend_tokenizer
        self._window = self._tail(before)
        self._new = len(self._window)
        """Index in the window of the first token after the place up to which all text is out."""
        self._said = len(self._decode(self._window))
        """Number of characters of the window's text that are out."""
        self._held: list[tuple[int, str]] = []
        """Tokens whose text isn't complete, and what they have of it."""

    def push(self, token: int) -> str:
        """Append one token; return the text that no later token can change."""
        self._window.append(token)
        self._held.append((token, ""))
        if self._is_left_out(token) or token in self.kinds.fallback:
            if all(self._is_left_out(t) for t, _ in self._held):
                self._name("")
            return ""
        text = self._decode(self._window)
        whole = not text.endswith(UNKNOWN)
        added = (text if whole else text[:-1])[self._said :]
        self._said += len(added)
        if whole:
            self._name(added)
            self._slide()
        else:
            self._held[-1] = (token, added)
        return added

    @property
    def pending(self) -> str:
        """The text that waits, as it would be if no token came after it."""
        return self._decode(self._window)[self._said :] if self._held else ""

    def flush(self) -> str:
        """Return the text that waits; the stream ends here."""
        rest = self.pending
        self._said += len(rest)
        self._name(rest)
        return rest

    def spelling(self, token: int) -> str:
        """Return the text that a token would add here; the name of a special one."""
        if token in self.kinds.special:
            return self.kinds.special[token]
        if token in self.kinds.fallback:
            return bytes([self.kinds.fallback[token]]).decode(errors="replace")
        before, after = self._decode(self._window), self._decode([*self._window, token])
        return after[len(before) :] if after.startswith(before) else self._decode([token])

    def _is_left_out(self, token: int) -> bool:
        return token in self.kinds.special or token >= self.kinds.size

    def _decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=True)

    def _tail(self, before: Sequence[int]) -> list[int]:
        """Return the last tokens of `before`, as many as make text and begin outside a run of bytes."""
        n = TAIL
        while n < len(before) and (before[-n] in self.kinds.fallback or not self._decode(before[-n:])):
            n += n
        return [*before[-n:]]

    def _slide(self) -> None:
        """Forget all but the last tokens that make text: a decoder treats the first characters of a text specially."""
        last = self._window[self._new :]
        if text := self._decode(last):
            self._window, self._new, self._said = last, len(last), len(text)

    def _name(self, text: str) -> None:
        """Share out `text` among the held tokens: each has what it completes."""
        names = [known for _, known in self._held]
        run = [i for i, (token, _) in enumerate(self._held) if token in self.kinds.fallback]
        parts = _characters(bytes(self.kinds.fallback[self._held[i][0]] for i in run))
        for strip in (0, 1):  # the decoder may have dropped the space at the beginning of the text
            if run and not any(names) and text.startswith(made := "".join(parts)[strip:]):
                for i, part in zip(run, parts, strict=True):
                    names[i] = part
                names[run[0]] = parts[0][strip:]
                text = text[len(made) :]
                break
        if names:
            names[-1] += text
        self.named += names
        self._held.clear()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _characters(run: bytes) -> list[str]:
    """Return the text that each byte of a run completes; U+FFFD for each where the run is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        parts = [decoder.decode(bytes([byte])) for byte in run]
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return [UNKNOWN] * len(run)
    return parts
