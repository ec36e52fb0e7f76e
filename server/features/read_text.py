"""Text reading: tokenizes a text or chat and records its unsteered residual stream, in chunks of the context length."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from server.errors import bad_request
from server.executors import READING, run_in
from server.limits.account import Account
from server.schemas.analysis import TextInput
from server.schemas.generation import to_messages
from server.serving.served_model import ServedModel
from steering.model.chat_template import Message, encode_chat
from steering.model.passage import NOBODY, Passage, any_passage, chat_passage, text_passage

MAX_TOKENS = 20_000
"""Maximum number of tokens read; longer texts are cut."""


async def read_text(
    served: ServedModel, asked: TextInput, account: Account, *, check: Callable[[int], None] = lambda _: None
) -> tuple[Passage, Tensor, bool]:
    """Tokenize the input and record its unsteered stream, in chunks of the context length; whether it was cut.

    `check` is called with the number of tokens before the model reads them.
    """
    tokenizer = served.engine.tokenizer
    encoded = await run_in(READING, encode_input, tokenizer, asked)
    passage = encoded.until(MAX_TOKENS)
    check(len(passage.ids))
    if all(part == NOBODY for part in passage.part):
        raise bad_request("the input is empty; there is no text to analyze", param="messages")
    head, stretches = split_context(tokenizer, passage, served.engine.max_model_len)
    async with account.charge_reading(len(passage.ids)):
        streams = await served.engine.record(stretches, served.bundle.info.hook)
    return passage, join_chunks(streams, head), len(encoded.ids) > MAX_TOKENS


def encode_input(tokenizer: PreTrainedTokenizerFast, asked: TextInput) -> Passage:
    """Tokens of the input. Raises BadChat and ApiError."""
    if asked.messages is not None:
        return chat_passage(tokenizer, to_messages(asked.messages))
    assert asked.text is not None
    return text_passage(tokenizer, asked.text) if asked.plain else any_passage(tokenizer, asked.text)


def split_context(tokenizer: PreTrainedTokenizerFast, passage: Passage, longest: int) -> tuple[int, list[list[int]]]:
    """Tokens in chunks of the context length; each begins with the first token if that begins every text."""
    bos = tokenizer.bos_token_id
    head = [bos] if isinstance(bos, int) and passage.ids[0] == bos else []
    step, ids = longest - len(head), passage.ids[len(head) :]
    return len(head), [[*head, *ids[i : i + step]] for i in range(0, max(1, len(ids)), step)]


def join_chunks(streams: Sequence[Tensor], head: int) -> Tensor:
    """The chunks' streams as one; the first token is kept of the first chunk only, since the others repeat it."""
    return torch.cat([s if i == 0 else s[head:] for i, s in enumerate(streams)])


def encode_prompt(tokenizer: PreTrainedTokenizerFast, text: str | None, messages: list[Message] | None) -> list[int]:
    """Token ids before the token to explain; if a chat's last message is the assistant's, it is the
    beginning of the reply."""
    if messages is None:
        bos = [tokenizer.bos_token_id] if isinstance(tokenizer.bos_token_id, int) else []
        return [*bos, *tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
    begun = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    chat = encode_chat(tokenizer, messages[:-1] if begun else messages)
    return [*chat.ids, *tokenizer(begun, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
