"""Read many short samples: passages and residual streams in batches."""

import asyncio
from collections.abc import Sequence

from server.errors import bad_request
from server.schemas.analysis import Sample
from server.schemas.generation import messages_of
from server.serving.served_model import Tiller
from steering.errors import BadChat
from steering.interpret.contrast import Read
from steering.model.passage import Passage, of_chat, of_text

TOGETHER = 200_000
"""Tokens that one request may ask to be read, of both sides together."""
AT_ONCE = 64
"""Documents whose streams are held at a time."""


async def passages(tiller: Tiller, samples: Sequence[Sample], param: str) -> list[Passage]:
    """Texts and chats as the model reads them, each cut where the context ends. Raises BadChat that names which."""
    tokenizer = tiller.engine.tokenizer

    def one(i: int, sample: Sample) -> Passage:
        try:
            found = of_text(tokenizer, sample) if isinstance(sample, str) else of_chat(tokenizer, messages_of(sample))
        except BadChat as error:
            raise bad_request(f"{param}.{i}: {error}", param=f"{param}.{i}") from error
        return found.until(tiller.engine.max_model_len)

    return await asyncio.to_thread(lambda: [one(i, s) for i, s in enumerate(samples)])


async def streams(tiller: Tiller, read: Sequence[Passage]) -> list[Read]:
    """The passages with their unsteered streams."""
    found = await tiller.engine.record([p.ids for p in read], tiller.bundle.info.hook)
    return list(zip(read, found, strict=True))
