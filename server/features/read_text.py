"""Read a text or a chat: tokenize it and record its unsteered residual stream, in chunks of the context length."""

import asyncio
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from server.errors import bad_request
from server.limits.account import Account
from server.schemas.analysis import Looked
from server.schemas.generation import messages_of
from server.serving.served_model import Tiller
from steering.model.chat_template import Message, encode_chat
from steering.model.passage import NOBODY, Passage, of_anything, of_chat, of_text

LONGEST = 20_000
"""Tokens that are looked at; of what is longer, the beginning."""


async def read(tiller: Tiller, asked: Looked, account: Account) -> tuple[Passage, Tensor, bool]:
    """Tokenize what is asked and read its unsteered stream, in stretches as long as the context; whether it was cut."""
    tokenizer = tiller.engine.tokenizer
    whole = await asyncio.to_thread(passage_of, tokenizer, asked)
    passage = whole.until(LONGEST)
    if all(part == NOBODY for part in passage.part):
        raise bad_request("nobody says anything in it; there is nothing to look at", param="messages")
    head, stretches = in_stretches(tokenizer, passage, tiller.engine.max_model_len)
    async with account.reading(len(passage.ids)):
        streams = await tiller.engine.record(stretches, tiller.bundle.info.hook)
    return passage, joined(streams, head), len(whole.ids) > LONGEST


def passage_of(tokenizer: PreTrainedTokenizerFast, asked: Looked) -> Passage:
    """What is asked, as tokens. Raises BadChat and ApiError."""
    if asked.messages is not None:
        return of_chat(tokenizer, messages_of(asked.messages))
    assert asked.text is not None
    return of_text(tokenizer, asked.text) if asked.plain else of_anything(tokenizer, asked.text)


def in_stretches(tokenizer: PreTrainedTokenizerFast, passage: Passage, longest: int) -> tuple[int, list[list[int]]]:
    """Its tokens in stretches as long as the context; each begins with the first token if that begins every text."""
    bos = tokenizer.bos_token_id
    head = [bos] if isinstance(bos, int) and passage.ids[0] == bos else []
    step, ids = longest - len(head), passage.ids[len(head) :]
    return len(head), [[*head, *ids[i : i + step]] for i in range(0, max(1, len(ids)), step)]


def joined(streams: Sequence[Tensor], head: int) -> Tensor:
    """The stretches' streams as one; the first token is kept of the first alone, since the others repeat it."""
    return torch.cat([s if i == 0 else s[head:] for i, s in enumerate(streams)])


def prompt_of(tokenizer: PreTrainedTokenizerFast, text: str | None, messages: list[Message] | None) -> list[int]:
    """The ids before the token that is explained; a chat's last message, if the assistant's, is what it has begun to say."""
    if messages is None:
        bos = [tokenizer.bos_token_id] if isinstance(tokenizer.bos_token_id, int) else []
        return [*bos, *tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
    begun = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    chat = encode_chat(tokenizer, messages[:-1] if begun else messages)
    return [*chat.ids, *tokenizer(begun, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
