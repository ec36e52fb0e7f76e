"""Context window: leaves out the oldest turns of a chat that is too long, if the request asks for it.

`truncation` is the field of OpenAI's Responses API. A turn is a user message with what follows until the next one; the
system message and the last turn always stay.
"""

from collections.abc import Callable, Sequence

from server.schemas.completions import Warned
from steering.model.chat_template import EncodedChat, Message

RESERVED = 256
"""Tokens kept free for a reply whose length is not given; at most a quarter of the context."""
Encode = Callable[[list[Message]], EncodedChat]


def fit_chat(
    encode: Encode, messages: Sequence[Message], *, context: int, reply: int | None
) -> tuple[EncodedChat, int]:
    """Return the chat with as few of its oldest turns left out as possible, and how many messages these are.

    `context` and `reply` are tokens. Where the last turn alone leaves no room for a `reply` of that length, a shorter one
    will do; if it does not fit even so, the whole chat is returned, for the caller to refuse.
    """
    least = min(RESERVED, context // 4)
    for reserved in (reply or least, *([least] if reply and reply > least else [])):
        room = context - reserved
        if kept := _longest_that_fits(encode, messages, room):
            return kept
    return encode([*messages]), 0


def _longest_that_fits(encode: Encode, messages: Sequence[Message], room: int) -> tuple[EncodedChat, int] | None:
    """Return the chat with the fewest turns left out that has at most `room` tokens; None if the last turn has more.

    A message takes a token or more, so that chats of more messages than `room` are not rendered.
    """
    if len(messages) <= room and len((whole := encode([*messages])).ids) <= room:
        return whole, 0
    turns = turn_starts(messages)
    kept: tuple[EncodedChat, int] | None = None
    low, high = 1, len(turns) - 1  # the first turn that is kept
    while low <= high and turns[0] + len(messages) - turns[low] > room:
        low += 1
    while low <= high:
        middle = (low + high) // 2
        head = [*messages[: turns[0]], *messages[turns[middle] :]]
        chat = encode(head)
        if len(chat.ids) <= room:
            kept, high = (chat, len(messages) - len(head)), middle - 1
        else:
            low = middle + 1
    return kept


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Return the index of each turn's first message, of the first turn also where the assistant begins it."""
    first = next((i for i, m in enumerate(messages) if m["role"] not in ("system", "developer")), 0)
    return [i for i, m in enumerate(messages) if i == first or (i > first and m["role"] == "user")]


def left_out_warning(messages: int, context: int) -> Warned:
    """Say that turns were left out."""
    these = "the oldest message was" if messages == 1 else f"the oldest {messages} messages were"
    return Warned(
        code="turns_left_out",
        feature="",
        message=f"{these} left out: the model's context holds {context} tokens",
    )
