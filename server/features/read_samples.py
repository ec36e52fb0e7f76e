"""Sample reading: tokens and residual streams of many short texts, in batches."""

from collections.abc import Sequence

from server.errors import bad_request
from server.executors import READING, run_in
from server.schemas.analysis import Sample
from server.schemas.generation import to_messages
from server.serving.served_model import ServedModel
from steering.errors import BadChat
from steering.interpret.contrast import Read
from steering.model.passage import Passage, chat_passage, text_passage

MAX_TOKENS = 200_000
"""Maximum number of tokens per request, both sides together."""
BATCH = 64
"""Number of documents whose streams are in memory at a time."""


async def encode_samples(served: ServedModel, samples: Sequence[Sample], param: str) -> list[Passage]:
    """Tokenized texts and chats, each cut at the context length. Raises BadChat that names which."""
    tokenizer = served.engine.tokenizer

    def one(i: int, sample: Sample) -> Passage:
        try:
            found = (
                text_passage(tokenizer, sample)
                if isinstance(sample, str)
                else chat_passage(tokenizer, to_messages(sample))
            )
        except BadChat as error:
            raise bad_request(f"{param}.{i}: {error}", param=f"{param}.{i}") from error
        return found.until(served.engine.max_model_len)

    return await run_in(READING, lambda: [one(i, s) for i, s in enumerate(samples)])


async def record_samples(served: ServedModel, read: Sequence[Passage]) -> list[Read]:
    """The passages with their unsteered streams."""
    found = await served.engine.record([p.ids for p in read], served.bundle.info.hook)
    return list(zip(read, found, strict=True))
