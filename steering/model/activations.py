"""Residual activations of chats: tokens, padded batches, and shuffled batches of activations, as iterators.

Only tokens are stored; activations are computed when they are needed. The first token of a text and every row whose
norm is more than ten times the median are left out: attention sinks teach an SAE nothing.
"""

from collections.abc import Collection, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.model.chat_template import Message
from steering.model.hooks import read_stream
from steering.model.token_store import TokenStore

SINK = 10.0


def tokenize_chats(tokenizer: PreTrainedTokenizerFast, chats: Iterable[list[Message]]) -> Iterator[list[int]]:
    """Render whole chats with the chat template and yield their token ids."""
    for chat in chats:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
        yield tokenizer(text, add_special_tokens=False)["input_ids"]


def padded_batches(rows: Iterable[list[int]], *, batch: int, longest: int, pad: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches `(ids, real)` of shape `[batch, time]`, truncated to `longest` tokens, sorted by length in blocks."""
    block: list[list[int]] = []
    for row in rows:
        block.append(row[:longest])
        if len(block) == batch * 16:
            yield from _pad(block, batch, pad)
            block = []
    if block:
        yield from _pad(block, batch, pad)


def activations(
    model: PreTrainedModel, batches: Iterable[tuple[Tensor, Tensor]], hook: str, *, skip: Collection[int] = ()
) -> Iterator[Float[Tensor, "rows d_in"]]:
    """Yield the stream at `hook`, `[rows, d_in]` per batch, without the first token of each text, sinks and ids in
    `skip`.
    """
    left_out = torch.tensor(sorted(skip), dtype=torch.long)
    for ids, real in batches:
        x = read_stream(model, ids.to(model.device), hook, attention_mask=real.long().to(model.device))
        keep = real & ~torch.isin(ids, left_out)
        keep[:, 0] = False
        rows = x[keep.to(x.device)].float()
        norms = rows.norm(dim=1)
        yield rows[norms <= SINK * norms.median()] if len(rows) else rows


class ActivationStream:
    """Shuffled batches of activations of `tokens`, epoch after epoch, each in another order of texts.

    A block of about `buffer` rows is computed at a time and shuffled. Everything is a function of `seed` and
    `position`: a stream created at the position of another yields the same batches as that one from there on.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokens: TokenStore,
        hook: str,
        *,
        rows: int,
        buffer: int = 200_000,
        skip: Collection[int] = (),
        longest: int = 512,
        batch: int = 32,
        passes: int = 1,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
        position: tuple[int, int] = (0, 0),
    ) -> None:
        """Read every n-th text from the i-th on, with `share` (i, n). Raises ValueError if there are no texts.

        `position` is the number of texts before the current block, and the number of batches of that block already
        returned.
        """
        if not len(tokens):
            raise ValueError("there are no texts")
        self._model, self._tokens, self._hook, self._skip = model, tokens, hook, skip
        self._rows, self._buffer, self._longest, self._batch = rows, max(buffer, rows), longest, batch
        self._passes, self._seed, self._share = passes, seed, share
        self.position: tuple[int, ...] = position
        self._texts_read = position[0]
        self._block: list[Tensor] = []
        if position[1]:
            self._block = self._read()[position[1] :]

    def __iter__(self) -> Iterator[Float[Tensor, "rows d_in"]]:
        return self

    def __next__(self) -> Float[Tensor, "rows d_in"]:
        """Return the next batch. Raises StopIteration after the last epoch; rows that do not fill a batch are dropped."""
        if not self._block:
            self.position = (self._texts_read, 0)
            self._block = self._read()
        if not self._block:
            raise StopIteration
        self.position = (self.position[0], self.position[1] + 1)
        return self._block.pop(0)

    def _read(self) -> list[Tensor]:
        held, size = [], 0
        generator = torch.Generator().manual_seed(hash((self._seed, self._texts_read, self._share)) % 2**63)
        while size < self._buffer and (texts := self._texts()):
            for part in activations(self._model, _pad(texts, self._batch, 0), self._hook, skip=self._skip):
                held.append(part)
                size += len(part)
        if size < self._rows:
            return []
        pool = torch.cat(held)
        order = torch.randperm(size, generator=generator)[: size // self._rows * self._rows].to(pool.device)
        # Copies: a view would keep the whole block in memory.
        return [pool[some] for some in order.split(self._rows)]

    def _texts(self) -> list[list[int]]:
        """Return the next few texts, which have similar lengths after sorting."""
        found: list[list[int]] = []
        mine = range(self._share[0], len(self._tokens), self._share[1])
        while len(found) < self._batch * 16 and self._texts_read < len(mine) * self._passes:
            pass_, at = divmod(self._texts_read, len(mine))
            found.append(self._tokens[self._order(pass_)[mine[at]]][: self._longest])
            self._texts_read += 1
        return found

    def _order(self, pass_: int) -> list[int]:
        if getattr(self, "_ordered", None) != pass_:
            self._ordered = pass_
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + pass_)
            self._orders: list[int] = torch.randperm(len(self._tokens), generator=generator).tolist()
        return self._orders


class ShuffledStream:
    """Batches of two streams: `rows` of each form one batch. It can be resumed at a position, as each of them can."""

    def __init__(self, one: ActivationStream, other: ActivationStream) -> None:
        self._streams = (one, other)

    @property
    def position(self) -> tuple[int, ...]:
        """Positions of both streams, concatenated."""
        return self._streams[0].position + self._streams[1].position

    def __iter__(self) -> Iterator[Float[Tensor, "rows d_in"]]:
        return self

    def __next__(self) -> Float[Tensor, "rows d_in"]:
        """Return the next batch. Raises StopIteration when one of the streams ends."""
        return torch.cat([next(stream) for stream in self._streams])


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
