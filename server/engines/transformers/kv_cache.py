"""Key-value cache: many sequences, each with its own length, in preallocated buffers.

One cache serves the whole engine. Sequences occupy the rows from 0 on without gaps, so a step over
all of them reads a view and copies nothing; a freed row is filled by the last one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

STEP = 256
"""Positions by which the buffers grow."""

Kept = Float[Tensor, "layers both heads time head_dim"]


class KVCache(Cache):
    """A transformers cache whose rows are written at given positions. Call `begin` before each forward pass."""

    def __init__(self, rows: int, longest: int) -> None:
        super().__init__(layers=[])
        self.rows, self.longest, self.room = rows, longest, 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._row: Tensor
        self._at: Tensor
        self._view: slice | Tensor
        self.seen = 0
        """How far the rows of the present pass read."""

    def begin(self, view: slice | Tensor, at: Int[Tensor, "batch time"], seen: int) -> None:
        """Prepare a pass: its rows, the positions that they write (−1 is nowhere), and how far they read."""
        self.reserve(seen)
        rows = torch.arange(view.start, view.stop, device=at.device) if isinstance(view, slice) else view
        self._view, self._row, self.seen = view, rows[:, None], seen
        self._at = torch.where(at < 0, self.room, at)  # the last column is scratch and never read

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_: Any,  # noqa: ANN401 - whatever an architecture passes on
        **__: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Write this pass's keys and values, `[batch, heads, time, head_dim]`; return all that its rows may read."""
        if layer_idx == len(self._keys):
            self._keys.append(self._empty(key_states))
            self._values.append(self._empty(value_states))
        found = []
        for buffer, new in ((self._keys[layer_idx], key_states), (self._values[layer_idx], value_states)):
            buffer[self._row, :, self._at] = new.transpose(1, 2)
            found.append(buffer[self._view, :, : self.seen])
        return found[0], found[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - transformers names it
        """Fallback for models that get no positions; the engine always passes them."""
        return self.seen

    def reserve(self, length: int) -> None:
        """Make room for `length` positions in every row."""
        if length <= self.room:
            return
        self.room = min(self.longest, -(-length // STEP) * STEP)
        for buffers in (self._keys, self._values):
            for i, old in enumerate(buffers):
                buffers[i] = self._empty(old)
                buffers[i][:, :, : old.shape[2] - 1] = old[:, :, :-1]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row over another."""
        for buffer in (*self._keys, *self._values):
            buffer[target, :, :length] = buffer[source, :, :length]

    def take(self, row: int, length: int) -> Kept:
        """Copy of the first `length` positions of a row."""
        return torch.stack(
            [
                torch.stack([k[row, :, :length], v[row, :, :length]])
                for k, v in zip(self._keys, self._values, strict=True)
            ]
        )

    def put(self, row: int, kept: Kept, length: int) -> None:
        """Write positions copied from another row to the first `length` positions of a row."""
        self.reserve(length)
        for i, (k, v) in enumerate(zip(self._keys, self._values, strict=True)):
            k[row, :, :length], v[row, :, :length] = kept[i, 0, :, :length], kept[i, 1, :, :length]

    def bytes_of(self, length: int) -> int:
        """Memory of the first `length` positions of a row, in bytes."""
        return sum(b.shape[1] * b.shape[3] * b.element_size() for b in (*self._keys, *self._values)) * length

    def wipe(self, row: int) -> None:
        """Zero a row: a NaN left behind would reach the next sequence through masked attention (0 · NaN)."""
        for buffer in (*self._keys, *self._values):
            buffer[row] = 0

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.rows, like.shape[1], self.room + 1, like.shape[3])


class AttentionMasks:
    """Attention masks, in the form that the model's attention takes."""

    def __init__(self, config: Any, dtype: torch.dtype, *, visible: bool = False) -> None:  # noqa: ANN401 - each architecture has its own class
        """`visible` always gives booleans, true where a position may be read."""
        self.kinds: Sequence[str] | None = getattr(config, "layer_types", None)
        self.window: int | None = getattr(config, "sliding_window", None)
        if getattr(config, "use_sliding_window", True) is False:
            self.window = None
        self.additive = config._attn_implementation == "eager" and not visible  # the mask is added to the scores
        self.dtype = dtype

    def build(self, at: Int[Tensor, "batch time"], seen: int) -> Tensor | dict[str, Tensor]:
        """Mask of tokens at positions `at` over the positions `0 … seen − 1`."""
        columns = torch.arange(seen, device=at.device)
        here = at.clamp(min=0)[:, None, :, None]
        full = columns <= here  # [batch, 1, time, seen]
        near = full & (columns > here - self.window) if self.window else full
        if self.kinds and len(set(self.kinds)) > 1:
            return {"full_attention": self._form(full), "sliding_attention": self._form(near)}
        sliding = self.kinds[0] == "sliding_attention" if self.kinds else self.window is not None
        return self._form(near if sliding else full)

    def _form(self, visible: Tensor) -> Tensor:
        if not self.additive:
            return visible
        return torch.zeros_like(visible, dtype=self.dtype).masked_fill(~visible, torch.finfo(self.dtype).min)
