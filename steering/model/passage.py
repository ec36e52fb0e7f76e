"""Passage: a text as tokens, with the part (message, line) and the characters of each token.

A chat is rendered by the model's template, whose own tokens belong to no part. A transcript (`speaker: line`) becomes a
chat, since chat models and their SAEs were trained on chats. Characters are counted as Python does, by code points.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from steering.errors import BadChat
from steering.model.chat_template import Message, encode_chat

LINE = re.compile(r"^[ \t]*([^\s:][^:\n]{0,39}?)[ \t]*:[ \t]+(\S.*)$")
ASSISTANTS = frozenset({"assistant", "ai", "bot", "model", "system output", "a"})
USERS = frozenset({"user", "human", "you", "me", "q"})
NOBODY = -1


@dataclass(frozen=True)
class Part:
    """One message, line or text, as it was given."""

    speaker: str
    text: str


@dataclass(frozen=True)
class Passage:
    """Tokens of one or more parts. A token of the template has part −1 and an empty span."""

    parts: tuple[Part, ...]
    ids: tuple[int, ...]
    part: tuple[int, ...]
    """Part of each token."""
    spans: tuple[tuple[int, int], ...]
    """Span of characters in that part's text; tokens that share one character all have its span."""

    def until(self, tokens: int) -> "Passage":
        """Return the first `tokens` tokens."""
        return Passage(self.parts, self.ids[:tokens], self.part[:tokens], self.spans[:tokens])

    def text_of(self, token: int) -> str:
        """Return the characters of a token."""
        start, end = self.spans[token]
        return self.parts[self.part[token]].text[start:end] if self.part[token] != NOBODY else ""


def concatenate(passages: Sequence[Passage]) -> Passage:
    """Return several passages as one, for counting; the model still reads each of them separately."""
    owners, before = [], 0
    for p in passages:
        owners += [i + before if i != NOBODY else NOBODY for i in p.part]
        before += len(p.parts)
    return Passage(
        tuple(x for p in passages for x in p.parts),
        tuple(x for p in passages for x in p.ids),
        tuple(owners),
        tuple(x for p in passages for x in p.spans),
    )


def text_passage(tokenizer: PreTrainedTokenizerFast, text: str) -> Passage:
    """Return plain text after the beginning-of-text token. Raises BadChat for an empty text."""
    found = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    if not found["input_ids"]:
        raise BadChat("there is no text to analyse", param="text")
    bos = [tokenizer.bos_token_id] if isinstance(tokenizer.bos_token_id, int) else []
    n = len(found["input_ids"])
    return Passage(
        (Part("", text),),
        (*bos, *found["input_ids"]),
        (*(NOBODY for _ in bos), *(0 for _ in range(n))),
        (*((0, 0) for _ in bos), *((a, b) for a, b in found["offset_mapping"])),
    )


def chat_passage(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], speakers: Sequence[str] | None = None
) -> Passage:
    """Return a chat as the model reads it; `speakers` name the parts, by default the roles. Raises BadChat."""
    chat = encode_chat(tokenizer, list(messages), generate=False)
    names = speakers or [m["role"] for m in messages]
    parts = tuple(Part(name, m["content"]) for name, m in zip(names, messages, strict=True))
    places = [_place(chat.text, m["content"], at) for m, at in zip(messages, chat.contents, strict=True)]
    owner, spans = [], []
    for start, end in chat.offsets:
        i = next((i for i, (a, b, _) in enumerate(places) if a <= start < b), NOBODY)
        owner.append(i)
        shift = places[i][2] - places[i][0] if i != NOBODY else 0
        spans.append((start + shift, min(end, places[i][1]) + shift) if i != NOBODY else (0, 0))
    return Passage(parts, chat.ids, tuple(owner), tuple(spans))


def _place(text: str, original: str, found: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Return start and end of a message's text in the rendered chat, and how many characters at its start are missing."""
    core = original.strip()
    if not core:
        return 0, 0, 0
    if found is None:
        raise BadChat("this model's chat template changes the messages' text, so that tokens cannot be mapped to it")
    (start, end, skipped), before = found, original[: original.index(core)]
    after = original[len(before) + len(core) :]
    if not skipped and text[:start].endswith(before):  # templates may strip
        start -= len(before)
    else:
        skipped += len(before)
    return start, end + len(after) if text.startswith(after, end) else end, skipped


def parse_transcript(text: str) -> list[Part] | None:
    """Return the parts of a text in which every paragraph begins with `speaker: `; None if it is not a transcript."""
    parts: list[Part] = []
    for line in text.splitlines():
        if found := LINE.match(line):
            parts.append(Part(found[1], found[2].rstrip()))
        elif line.strip() and parts:
            parts[-1] = Part(parts[-1].speaker, f"{parts[-1].text}\n{line.rstrip()}")
        elif line.strip():
            return None
    return parts if len(parts) > 1 and len({p.speaker for p in parts}) > 1 else None


def transcript_passage(tokenizer: PreTrainedTokenizerFast, parts: Sequence[Part]) -> Passage:
    """Return a transcript as a chat. Speakers named in ASSISTANTS are the assistant; without one, all but the first
    speaker.
    """
    names = [p.speaker.lower() for p in parts]
    known = any(n in ASSISTANTS for n in names)
    first = next((n for n in names if n in USERS), names[0])
    speaks = lambda n: n in ASSISTANTS if known else n != first and n not in USERS  # noqa: E731
    messages = [
        {"role": "assistant" if speaks(n) else "user", "content": p.text} for n, p in zip(names, parts, strict=True)
    ]
    return chat_passage(tokenizer, messages, [p.speaker for p in parts])


def any_passage(tokenizer: PreTrainedTokenizerFast, text: str) -> Passage:
    """Return a transcript if the text is one and the model has a chat template, else plain text."""
    parts = parse_transcript(text) if tokenizer.chat_template else None
    return transcript_passage(tokenizer, parts) if parts else text_passage(tokenizer, text)
