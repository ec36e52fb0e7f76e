"""KV cache with room for the tokens to come.

`transformers.DynamicCache` copies all keys and values at every step, which costs more than the matrix products of a
small model's step; here they are written into buffers that are allocated once.
"""

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """Keys and values `[batch, heads, time, head_dim]` of one layer, in buffers of fixed length."""

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        """Hold keys and values, with room for so many more tokens."""
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._buffers = _with_room(keys, room), _with_room(values, room)
        self._length = keys.shape[2]
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append keys and values; return all of them. Raises RuntimeError when there is no room."""
        begin, self._length = self._length, self._length + key_states.shape[2]
        if self._length > (room := self._buffers[0].shape[2]):
            raise RuntimeError(f"the KV cache has room for {room} tokens, not {self._length}")
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin : self._length] = new
        return self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        keys, values = (b[:, :, : self._length] for b in self._buffers)
        self.keys, self.values = keys, values
        return keys, values


def preallocated(layers: list[tuple[Tensor, Tensor]], room: int) -> Cache:
    """Return a cache that begins with the keys and values of each layer."""
    return Cache([PreallocatedLayer(k, v, room) for k, v in layers])


def keys_and_values(cache: Cache) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return keys and values of each layer; empty if a layer holds something else, such as a recurrent state."""
    held = [
        (layer.keys, layer.values)
        for layer in cache.layers
        if isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
    ]
    return tuple(held) if len(held) == len(cache.layers) else ()


def _with_room(t: Tensor, room: int) -> Tensor:
    batch, heads, time, width = t.shape
    buffer = t.new_empty(batch, heads, time + room, width)
    buffer[:, :, :time] = t
    return buffer
