"""Chat markers: finds messages whose text would be read as a part of the chat template, and refuses them.

Tokens are told by the ids that a text becomes, whatever their brackets, the tokenizer's normalizer or case. Markers that
a template writes as plain text, such as `[/INST]` and `USER:`, are told by their letters.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache

from jinja2 import Environment
from transformers import PreTrainedTokenizerBase

from steering.errors import BadChat
from steering.model.chat_rendering import REASONING, Message, RenderedChat, template_of

_REASON = re.compile(r"\W*(think|thinking|thought|reasoning|seed:think)\W*", re.IGNORECASE)
"""Names of the marks around a reply's reasoning: they do not say whose turn it is, and people ask about them."""
_BRACKETED = re.compile(r"<[|\uff5c][^|\uff5c<>\s]+[|\uff5c]>|\[/?[A-Z_]{3,}\]|<</?[A-Z]+>>|</?[a-z_]{3,}>")
_LINE = re.compile(r"[^\w\s\"'(\-*].*|.*[:>\]\uff1a]")
"""A line of a template that names a turn: it begins with a bracket or a mark, or ends with a bracket or a colon."""
LONGEST = 40
"""Characters of a line that names a turn; longer ones are sentences of a system message."""


def refuse_markers(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    rendered: RenderedChat,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
) -> None:
    """Raise BadChat for the first message that holds a token or marker of the template, alone or in its place."""
    tokens = _control_tokens(tokenizer, template_of(tokenizer))
    lines = [*_template_marks(template_of(tokenizer)), *_turn_lines(messages, rendered, tokens)]
    controls = [(a, b, tokens[i]) for i, (a, b) in zip(ids, offsets, strict=True) if i in tokens]
    for i, message in enumerate(messages):
        for field in ("content", *REASONING):
            text = message.get(field, "")
            found = _token_in(tokenizer, text, tokens) or _line_in(tokenizer, text, lines)
            if field == "content" and not found and (place := rendered.contents.get(i)):
                found = _token_at(rendered.text, place[0], place[1], controls)
            if found:
                raise BadChat(
                    f"message {i} contains {found!r}, a marker of this model's chat template; remove it, or put a space into it",
                    param=f"messages.{i}.{field}",
                )


@lru_cache(maxsize=16)
def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> dict[int, str]:
    """Return the ids that no message may become, with their names: special tokens, and those that the template writes."""
    literals = _literals(template)
    found = dict[int, str]()
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    unknown = None if tokenizer.unk_token_id in ends else tokenizer.unk_token_id  # any odd character becomes it
    for i, token in tokenizer.added_tokens_decoder.items():
        written = token.content in literals and not token.content.isspace() and not token.content.isalnum()
        if (token.special or written) and i != unknown and not _REASON.fullmatch(token.content):
            found[i] = token.content
    return found


@lru_cache(maxsize=16)
def _literals(template: str) -> str:
    """Return what a template writes or compares with, as one text."""
    return " ".join(value for _, kind, value in Environment().lex(template) if kind in ("data", "string"))


@lru_cache(maxsize=16)
def _template_marks(template: str) -> tuple[str, ...]:
    """Return bracketed words that occur literally in a template; refusing those that it only compares with does no harm."""
    found = dict.fromkeys(_BRACKETED.findall(_literals(template)))
    return tuple(mark for mark in found if not _REASON.fullmatch(mark))


def _turn_lines(messages: Sequence[Message], rendered: RenderedChat, tokens: dict[int, str]) -> list[str]:
    """Return the lines with which the template begins and ends turns in this chat, as far as they are plain text."""
    whole = [i for i, (_, _, cut) in rendered.contents.items() if not cut and not messages[i].keys() & set(REASONING)]
    texts, lines = sorted(rendered.contents[i][:2] for i in whole), dict[str, None]()
    for start, end, _ in (*rendered.turns, (rendered.reply, len(rendered.text), 0)):
        near = texts[bisect_left(texts, (start,)) : bisect_right(texts, end, key=lambda span: span[0])]
        inside = [(a, b) for a, b in near if b <= end]
        borders = [start, *(at for span in inside for at in span), end]
        pieces = [rendered.text[a:b] for a, b in zip(borders[::2], borders[1::2], strict=True)]
        if inside or start == rendered.reply:  # where reasoning is shown apart, not all lines are the template's
            lines |= dict.fromkeys(line.strip() for piece in pieces for line in piece.splitlines())
    return [
        line
        for line in lines
        if len(line) <= LONGEST
        and _LINE.fullmatch(line)
        and any(c.isalnum() for c in line)
        and not _REASON.fullmatch(line)
        and not any(token in line for token in tokens.values())
    ]


def _token_in(tokenizer: PreTrainedTokenizerBase, text: str, tokens: dict[int, str]) -> str | None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return next((tokens[i] for i in ids if i in tokens), None)


def _token_at(text: str, start: int, end: int, controls: Sequence[tuple[int, int, str]]) -> str | None:
    """Return the first of the control tokens that is made of characters of a place; whitespace that a token takes along
    does not count.
    """
    for a, b, name in controls[bisect_right(controls, start, key=lambda c: c[1]) :]:  # those that end behind its start
        if a >= end:
            return None
        if text[max(a, start) : min(b, end)].strip():
            return name
    return None


def _line_in(tokenizer: PreTrainedTokenizerBase, text: str, lines: Sequence[str]) -> str | None:
    """Return the first plain marker in a text, as the tokenizer's normalizer has both; one that ends in a colon counts
    only at the beginning of a line.
    """
    said = _normalized(tokenizer, text)
    for line in lines:
        marker = re.escape(_normalized(tokenizer, line))
        if re.search(rf"(^|\n)[ \t\u2581]*{marker}" if line[-1] in ":\uff1a" else marker, said):
            return line
    return None


def _normalized(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return normalizer.normalize_str(text).strip("\u2581 ") if normalizer else text
