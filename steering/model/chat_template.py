"""Chat template: messages to token ids, with a mask of the assistant's tokens.

The spans come from the template: what it adds when it is given one more message. So they are exact for every turn, from
the turn's header on. A message that contains one of the template's own markers is refused, so that no user can imitate
the assistant.
"""

import re
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, TemplateError
from transformers import PreTrainedTokenizerBase

from steering.errors import BadChat
from steering.spec import Scope

Message = dict[str, str]
MARK = "\u241fsystem\u241f"
"""Stands for a system message where a template is examined; no template writes it."""


@dataclass(frozen=True)
class EncodedChat:
    """Token ids and, for each, whether it belongs to an assistant turn (its header included)."""

    ids: tuple[int, ...]
    assistant: tuple[bool, ...]
    text: str
    offsets: tuple[tuple[int, int], ...] = ()
    """Span of characters of `text` for each token."""

    def steered(self, scope: Scope) -> tuple[bool, ...]:
        """Return the mask of the tokens that a scope steers.

        The first new token is sampled at the last prompt token, so `generated` begins there.
        """
        n = len(self.ids)
        return {"assistant": self.assistant, "all": (True,) * n, "generated": (False,) * (n - 1) + (True,)}[scope]


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: list[Message], *, generate: bool = True) -> EncodedChat:
    """Render and tokenize a chat, with the generation prompt if `generate`. Raises BadChat for messages that cannot be
    shown.
    """
    _refuse_markers(tokenizer, messages)
    text = _render(tokenizer, messages, generate)
    spans = _assistant_spans(tokenizer, messages, text, generate)
    batch = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = batch["input_ids"], batch["offset_mapping"]
    mask = tuple(any(a <= start and start < b for a, b in spans) for start, _ in offsets)
    return EncodedChat(tuple(ids), mask, text, tuple((a, b) for a, b in offsets))


def default_system_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template says as the system where a chat has no system message; empty if it says nothing.

    Found by comparison: a chat with a system message that is a mark, and one without.
    """
    user: Message = {"role": "user", "content": "Hello!"}
    try:
        with_mark = _render(tokenizer, [{"role": "system", "content": MARK}, user], False)
        without = _render(tokenizer, [user], False)
    except BadChat:
        return ""
    before, mark, after = with_mark.partition(MARK)
    if not mark or not without.startswith(before) or after not in without[len(before) :]:
        return ""
    return without[len(before) : without.index(after, len(before))].strip()


def special_strings(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Return the strings that have a meaning for the tokenizer or the template: special tokens, and markers like
    `[/INST]`.
    """
    special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special} | set(
        tokenizer.all_special_tokens
    )
    return frozenset(special - {""}) | _template_marks(str(tokenizer.chat_template or ""))


@cache
def _template_marks(template: str) -> frozenset[str]:
    """Return bracketed words that occur literally in a template; refusing those that it only compares with does no
    harm.
    """
    literal = " ".join(value for _, kind, value in Environment().lex(template) if kind in ("data", "string"))
    return frozenset(re.findall(r"<\|[^|<>\s]+\|>|\[/?[A-Z_]{3,}\]|<</?[A-Z]+>>|</?[a-z_]{3,}>", literal))


def _refuse_markers(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> None:
    special = sorted(special_strings(tokenizer))
    for i, message in enumerate(messages):
        if found := next((s for s in special if s in message["content"]), None):
            raise BadChat(
                f"message {i} contains {found!r}, a marker of this model's chat template; remove it, or put a space into it",
                param=f"messages.{i}.content",
            )


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[Message], generate: bool) -> str:
    if not tokenizer.chat_template:
        raise BadChat("this model has no chat template; use /v1/completions, or a model that was tuned for chat")
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
    except TemplateError as error:
        raise BadChat(f"this model's chat template refuses these messages: {error}") from error
    assert isinstance(text, str)
    return text


def _assistant_spans(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], text: str, generate: bool
) -> list[tuple[int, int]]:
    """Return the character spans of the assistant's turns in `text`."""
    spans = []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            start = len(_render(tokenizer, messages[:i], False)) if i else 0
            end = len(_render(tokenizer, messages[: i + 1], False))
            if not text.startswith(_render(tokenizer, messages[: i + 1], False)):
                raise BadChat(
                    "this model's chat template rewrites earlier turns, so that their tokens have no fixed role"
                )
            spans.append((start, end))
    if generate:
        spans.append((len(_render(tokenizer, messages, False)), len(text)))
    return spans
