"""Chats → tokens → residual activations, as an iterator. Knows a model and a tokenizer; nothing of SAEs.

Only tokens are kept; activations are computed as they are wanted. The first token of a text and every
row longer than ten times the median are left out: attention sinks teach an SAE nothing (SAE.md §4).
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.chat import Message
from steering.hooks import read_stream

SINK = 10.0


def tokenize_chats(tokenizer: PreTrainedTokenizerFast, chats: Iterable[list[Message]]) -> Iterator[list[int]]:
    """Render whole chats through the template."""
    for chat in chats:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
        yield tokenizer(text, add_special_tokens=False)["input_ids"]


def padded_batches(rows: Iterable[list[int]], *, batch: int, longest: int, pad: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Group rows into `(ids, real)` of shape `[batch, time]`, cut at `longest`, sorted by length in blocks."""
    block: list[list[int]] = []
    for row in rows:
        block.append(row[:longest])
        if len(block) == batch * 16:
            yield from _pad(block, batch, pad)
            block = []
    if block:
        yield from _pad(block, batch, pad)


def activations(
    model: PreTrainedModel, batches: Iterable[tuple[Tensor, Tensor]], hook: str
) -> Iterator[Float[Tensor, "rows d_in"]]:
    """Yield the stream at `hook` of every token but the first of each text, sinks left out."""
    for ids, real in batches:
        x = read_stream(model, ids.to(model.device), hook, attention_mask=real.long().to(model.device))
        keep = real.clone()
        keep[:, 0] = False
        rows = x[keep].float()
        norms = rows.norm(dim=1)
        yield rows[norms <= SINK * norms.median()]


def shuffled(
    source: Iterable[Float[Tensor, "rows d_in"]], *, rows: int, buffer: int, seed: int = 0
) -> Iterator[Float[Tensor, "{rows} d_in"]]:
    """Yield batches of `rows`, drawn at random from a buffer that is kept at least half full."""
    generator = torch.Generator().manual_seed(seed)
    held: list[Tensor] = []
    size = 0
    for part in source:
        held.append(part)
        size += len(part)
        if size < buffer:
            continue
        pool = torch.cat(held)[torch.randperm(size, generator=generator)]
        cut = (size - buffer // 2) // rows * rows
        yield from pool[:cut].split(rows)
        held, size = [pool[cut:]], size - cut
    pool = torch.cat(held)[torch.randperm(size, generator=generator)]
    yield from pool[: size // rows * rows].split(rows)


def _pad(block: list[list[int]], batch: int, pad: int) -> Iterator[tuple[Tensor, Tensor]]:
    block.sort(key=len)
    for at in range(0, len(block), batch):
        rows = block[at : at + batch]
        ids = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.long)
        real = torch.zeros_like(ids, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            real[i, : len(row)] = True
        yield ids, real
