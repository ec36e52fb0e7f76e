"""Echo: the prompt of a text completion before its first piece, with the log-probabilities of its tokens."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from transformers import PreTrainedTokenizerFast

from server.engines.base import TextPiece
from server.engines.token_text import prompt_text
from server.executors import CHAT, run_in


async def with_echo(
    pieces: AsyncGenerator[TextPiece, None], echo: str, tokenizer: PreTrainedTokenizerFast
) -> AsyncGenerator[TextPiece, None]:
    """The same pieces with the prompt before the first one: its text, and its tokens where they are scored."""
    async with aclosing(pieces):
        async for piece in pieces:
            scored = await run_in(CHAT, prompt_text, tokenizer, piece.prompt) if piece.prompt else ()
            yield replace(piece, text=echo + piece.text, logprobs=(*scored, *piece.logprobs))
            echo = ""
