"""Chat template: messages to token ids, with a mask of the assistant's tokens.

The owners come from the one rendering that is sent (`chat_rendering.py`). A message whose text becomes one of the
template's own tokens or markers is refused, so that no user can imitate the assistant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from steering.errors import BadChat
from steering.model.chat_markers import refuse_markers
from steering.model.chat_rendering import REASONING, Message, RenderedChat, Turn, render, render_turns
from steering.model.spans import Spans
from steering.spec import Where, indices

__all__ = ["EncodedChat", "Message", "default_system_prompt", "encode_chat", "special_ids"]
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
    contents: tuple[tuple[int, int, int] | None, ...] = ()
    """For each message start and end of its text in `text`, and how many of its first characters the template dropped;
    without outer whitespace. None where the template changed it or left it out.
    """
    folded: bool = False
    """Whether a system message was put before the user's, because the template has no place for it."""
    special: tuple[bool, ...] = ()
    """For each token whether it is a special one or the template's own; empty where none is."""
    special_ids: frozenset[int] = frozenset()
    """Ids of special tokens, whether in the chat or not."""
    raw: bool = False
    """Whether it is raw text, whose tokens have no roles."""
    continued: int | None = None
    """Index of the first token of the text that the reply continues; None where the reply is a message of its own."""

    def steered(self, where: Where) -> tuple[bool, ...]:
        """Return the mask of the tokens that are steered. Raises BadPosition for one that the prompt does not have.

        The first new token is sampled at the last prompt token, so `generated` begins there.
        """
        n = len(self.ids)
        chosen = set(indices(where.positions, n))
        at = tuple(i in chosen for i in range(n))
        mask = {
            "assistant": self.assistant,
            "all": (True,) * n,
            "generated": (*at[:-1], True),
            "positions": at,
        }[where.scope]
        if not (where.skip_special and self.special):
            return mask
        return tuple(m and not s for m, s in zip(mask, self.special, strict=True))


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[Message],
    *,
    generate: bool = True,
    continue_final_message: bool = False,
) -> EncodedChat:
    """Render and tokenize a chat, with the generation prompt if `generate`; with `continue_final_message` up to the end of
    the last message's text, which the reply continues, and without a generation prompt.

    Raises BadChat for messages that cannot be shown, or that hold tokens or markers of the template.
    """
    generate = generate and not continue_final_message
    turns, rendered = _rendered(tokenizer, messages, generate)
    if continue_final_message:
        rendered = rendered.up_to_final_text(messages)
    batch = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = tuple(batch["input_ids"]), tuple((a, b) for a, b in batch["offset_mapping"])
    refuse_markers(tokenizer, messages, rendered, ids, offsets)
    spans = [(a, b) for a, b, i in rendered.turns if turns[i].role == "assistant"]
    if generate:
        spans = [(a, min(b, rendered.reply)) for a, b in spans] + [(rendered.reply, len(rendered.text))]
    assistants = Spans(spans)
    mask = tuple(start in assistants for start, _ in offsets)
    contents = tuple(rendered.contents.get(i) for i in range(len(messages)))
    final = contents[-1] if continue_final_message else None
    continued = next((i for i, (_, end) in enumerate(offsets) if final and end > final[0]), None)
    written = Spans(_written(turns, messages, rendered))
    special = tuple(
        i in special_ids(tokenizer) or not written.overlap(start, max(end, start + 1))
        for i, (start, end) in zip(ids, offsets, strict=True)
    )
    folded = len(turns) != len(messages)
    return EncodedChat(
        ids,
        mask,
        rendered.text,
        offsets,
        contents,
        folded=folded,
        special=special,
        special_ids=special_ids(tokenizer),
        continued=continued,
    )


@lru_cache(maxsize=8)
def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of special tokens: the tokenizer's own, and added ones that are marked so."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {i for i, token in added if token.special}


def _written(turns: Sequence[Turn], messages: Sequence[Message], rendered: RenderedChat) -> list[tuple[int, int]]:
    """Return the spans of characters that messages wrote: the rest is the template's.

    Whitespace around a message's text is its own where the template keeps it. Of a message whose text the template changed,
    the whole turn counts.
    """
    found = list[tuple[int, int]]()
    for start, end, turn in rendered.turns:
        texts = [(messages[i]["content"], rendered.contents.get(i)) for i, _ in turns[turn].parts]
        if any(place is None and text.strip() for text, place in texts):
            found.append((start, end))
            continue
        found += [_with_whitespace(rendered.text, text, place) for text, place in texts if place]
        for name, text in turns[turn].more:
            if name in REASONING and text.strip() and (at := rendered.text.find(text.strip(), start, end)) >= 0:
                found.append((at, at + len(text.strip())))
    return found


def _with_whitespace(whole: str, text: str, place: tuple[int, int, int]) -> tuple[int, int]:
    start, end, cut = place
    core = text.strip()
    before, after = text[: text.index(core)], text[text.index(core) + len(core) :]
    if not cut and whole[:start].endswith(before):
        start -= len(before)
    return start, end + len(after) if whole.startswith(after, end) else end


def default_system_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template says as the system where a chat has no system message; empty if it says nothing.

    Found by comparison: a chat with a system message that is a mark, and one without.
    """
    user: Message = {"role": "user", "content": "Hello!"}
    try:
        with_mark = render(tokenizer, [{"role": "system", "content": MARK}, user], generate=False)
        without = render(tokenizer, [user], generate=False)
    except BadChat:
        return ""
    before, mark, after = with_mark.partition(MARK)
    if not mark or not without.startswith(before) or after not in without[len(before) :]:
        return ""
    return without[len(before) : without.index(after, len(before))].strip()


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generate: bool
) -> tuple[list[Turn], RenderedChat]:
    """Return the chat as it is, or with system messages folded if the template refuses or leaves them out.

    Raises BadChat with the reason for the chat as it is.
    """
    turns = [_turn(i, m) for i, m in enumerate(messages)]
    refusal: BadChat | None = None
    for attempt in (turns, _folded(turns, first=1), _folded(turns, first=0)):
        if attempt is None or (refusal and attempt == turns):
            continue
        try:
            rendered = render_turns(tokenizer, attempt, generate=generate)
        except BadChat as error:
            refusal = refusal or error
            continue
        if not any(messages[i]["role"] == "system" for i in rendered.dropped):
            return attempt, rendered
        refusal = refusal or BadChat("this model's chat template leaves the system message out; put it into the user's")
    raise refusal or BadChat("this model's chat template refuses these messages")


def _turn(i: int, message: Message) -> Turn:
    more = tuple((k, v) for k, v in message.items() if k in REASONING)
    return Turn(message["role"], ((i, message["content"]),), more)


def _folded(turns: Sequence[Turn], *, first: int) -> list[Turn] | None:
    """Return the turns with each system message from index `first` on put before the text of the next user turn.

    None if there is none to fold, or no user turn after one of them.
    """
    found, waiting = list[Turn](), list[tuple[int, str]]()
    for i, turn in enumerate(turns):
        if turn.role == "system" and i >= first:
            waiting += turn.parts
        elif turn.role == "user":
            found.append(Turn(turn.role, (*waiting, *turn.parts), turn.more))
            waiting = []
        elif waiting:
            return None
        else:
            found.append(turn)
    return None if waiting or len(found) == len(turns) else found
