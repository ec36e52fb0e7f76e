"""Forward pass of the Llama family (Llama, Mistral, Qwen 2 and 3, SmolLM2) for the engine's batch.

It computes what transformers' own modules compute, in a third of the calls: no mask objects, no copies of keys for their
groups of queries, one product for matrices that read the same input. The stream is float32, products are in the dtype of
the weights. Other architectures run through their own modules (`batch.py`).

A row is its own: torch's attention rounds by how many queries and keys it is given, so prompts are computed in blocks of
positions that are the same whoever else is in the pass, and wherever a cached prefix ended.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from server.engines.transformers.kv_cache import AttentionMasks, KVCache
from server.engines.transformers.weights import Packed, Product, packed

FAMILY = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
ROPES = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose frequencies do not depend on the length of the text."""
BLOCK = 64
"""Positions whose attention is computed at once in a prompt. Keys are read up to a multiple of it, also for decoding."""
TURNS = 1024
"""Positions whose rotations are computed at once."""
Steer = Callable[[Float[Tensor, "batch time d_in"]], Float[Tensor, "batch time d_in"]]
Attend = Callable[[Tensor, Tensor, Tensor, str], Tensor]
"""Queries, keys, values and the kind of attention → `[rows, heads · head_dim]`."""


@dataclass(frozen=True, eq=False)
class Block:
    """The matrices of one block: `qkv` and `gate_up` are computed together, from the same input."""

    qkv: Product
    o: Product
    gate_up: Product
    down: Product
    before_attention: Tensor
    before_mlp: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    attention: str
    """Kind of its attention: the key of its mask, where there are several."""


class LlamaPass:
    """One model's blocks: with its own weights, and for decoding in 8 or 4 bits if asked for."""

    def __init__(self, model: PreTrainedModel, packed_as: Packed | None = None) -> None:
        config, inner = model.config.get_text_config(), cast(Any, model).model
        self.dtype, self.packs = model.dtype, packed_as is not None
        self._heads, self._kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._head_dim = int(inner.layers[0].self_attn.head_dim)
        self._epsilon = float(config.rms_norm_eps)
        self._embedding: Tensor = inner.embed_tokens.weight
        self._frequencies: Tensor = inner.rotary_emb.inv_freq.float()
        self._amplitude = float(inner.rotary_emb.attention_scaling)
        self._known_turns = torch.zeros(0, len(self._frequencies), dtype=torch.complex64)
        self._norm: Tensor = inner.norm.weight.float()
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * len(inner.layers)
        self._blocks = [_block(layer, kind, None) for layer, kind in zip(inner.layers, kinds, strict=True)]
        self._head = _product([cast(Any, model).lm_head], None)
        self._few_blocks, self._few_head = self._blocks, self._head
        if packed_as:
            self._few_blocks = [_block(layer, kind, packed_as) for layer, kind in zip(inner.layers, kinds, strict=True)]
            self._few_head = _product([cast(Any, model).lm_head], "int8")

    @staticmethod
    def supports(model: PreTrainedModel) -> bool:
        """Whether a model is computed here, and not by its own modules."""
        config = model.config.get_text_config()
        return (
            type(model) in FAMILY
            and model.device.type == "cpu"
            and getattr(config, "hidden_act", "") == "silu"
            and getattr(cast(Any, model).model.rotary_emb, "rope_type", "") in ROPES
        )

    def __call__(
        self,
        tokens: Int[Tensor, "batch time"],
        at: Int[Tensor, "batch time"],
        *,
        cache: KVCache,
        masks: AttentionMasks,
        wanted: Int[Tensor, " n"],
        steer: Mapping[int, Steer],
        decoding: bool,
    ) -> Float[Tensor, "batch n vocab"]:
        """Logits at the `wanted` times. `steer` moves the stream after a block; `decoding` takes the packed weights.

        Whether a pass decodes does not depend on who else is in it, so neither do the operators that compute a row.
        """
        batch, time = tokens.shape
        blocks, head = (self._few_blocks, self._few_head) if decoding else (self._blocks, self._head)
        turn = self._turns(int(at.max()))[at.reshape(-1).clamp(min=0)][:, None]
        attend = self._decoding(masks, at, cache) if decoding else self._reading(masks, at)
        x = functional.embedding(tokens.reshape(-1), self._embedding).float()
        for i, block in enumerate(blocks):
            read = self._normed(x, block.before_attention)
            q, k, v = self._projected(block, read, turn, batch, time)
            keys, values = cache.update(k, v, i)
            x = x + block.o(attend(q, keys, values, block.attention))
            gate, up = block.gate_up(self._normed(x, block.before_mlp)).chunk(2, -1)
            x = x + block.down(functional.silu(gate) * up)
            if act := steer.get(i):
                x = act(x.view(batch, time, -1)).reshape(batch * time, -1)
        last = x.view(batch, time, -1)[:, wanted].reshape(batch * len(wanted), -1)
        return head(self._normed(last, self._norm)).float().view(batch, len(wanted), -1)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.rms_norm(x, (x.shape[-1],), weight, self._epsilon).to(self.dtype)

    def _turns(self, last: int) -> Tensor:
        """Rotation of each pair of a head by position, `[positions, head_dim / 2]`, at least up to the last one.

        Kept, because torch's cosine rounds by how many numbers it is given.
        """
        while len(self._known_turns) <= last:
            first = len(self._known_turns)
            angles = torch.arange(first, first + TURNS)[:, None].float() * self._frequencies
            more = torch.polar(torch.full_like(angles, self._amplitude), angles)
            self._known_turns = torch.cat([self._known_turns, more])
        return self._known_turns

    def _projected(
        self, block: Block, read: Float[Tensor, "rows d_in"], turn: Tensor, batch: int, time: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `[batch, kv_heads, group, time, head_dim]`, keys and values `[batch, kv_heads, time, head_dim]`."""
        heads, kv, width = self._heads, self._kv_heads, self._head_dim
        found = block.qkv(read)
        q, k = found[:, : heads * width], found[:, heads * width : (heads + kv) * width]
        q = self._turned(self._head_normed(q.reshape(-1, heads, width), block.q_norm), turn)
        k = self._turned(self._head_normed(k.reshape(-1, kv, width), block.k_norm), turn)
        v = found[:, (heads + kv) * width :]
        q = q.view(batch, time, kv, heads // kv, width).permute(0, 2, 3, 1, 4)
        k, v = (t.view(batch, time, kv, width).transpose(1, 2) for t in (k, v))
        return q, k, v

    def _decoding(self, masks: AttentionMasks, at: Tensor, cache: KVCache) -> Attend:
        """Attention of one token of each row: all queries of a key as rows of one product."""
        visible = self._added(masks.build(at, cache.seen))
        group = self._heads // self._kv_heads

        def attend(q: Tensor, keys: Tensor, values: Tensor, kind: str) -> Tensor:
            mask = visible[kind].expand(-1, -1, group, -1)
            out = functional.scaled_dot_product_attention(q.flatten(2, 3), keys, values, attn_mask=mask)
            return out.flatten(1)

        return attend

    def _reading(self, masks: AttentionMasks, at: Tensor) -> Attend:
        """Attention of stretches of prompts, in blocks of positions."""
        group, width = self._heads // self._kv_heads, self._head_dim
        spans = [(int(row[0]), int((row >= 0).sum())) for row in at]
        visible = dict[int, dict[str, Tensor]]()

        def mask(block: int, seen: int) -> dict[str, Tensor]:
            if block not in visible:
                positions = torch.arange(block * BLOCK, (block + 1) * BLOCK)[None]
                added = self._added(masks.build(positions, seen))
                visible[block] = {
                    kind: m.expand(-1, group, -1, -1).reshape(1, 1, group * BLOCK, seen) for kind, m in added.items()
                }
            return visible[block]

        def attend(q: Tensor, keys: Tensor, values: Tensor, kind: str) -> Tensor:
            out = q.new_zeros(q.shape)
            for row, (start, length) in enumerate(spans):
                for block in range(start // BLOCK, -(-(start + length) // BLOCK)):
                    first, last = max(start, block * BLOCK), min(start + length, (block + 1) * BLOCK)
                    mine, there = slice(first - start, last - start), slice(first - block * BLOCK, last - block * BLOCK)
                    whole = q.new_zeros(1, self._kv_heads, group, BLOCK, width)
                    whole[0, :, :, there] = q[row, :, :, mine]
                    k, v = (t[row, None, :, : (block + 1) * BLOCK] for t in (keys, values))
                    seen = k.shape[2]
                    done = functional.scaled_dot_product_attention(
                        whole.flatten(2, 3), k, v, attn_mask=mask(block, seen)[kind]
                    )
                    out[row, :, :, mine] = done.view_as(whole)[0, :, :, there]
            return out.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1)

        return attend

    def _added(self, masks: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        """Masks to add to the scores, by kind of attention."""
        given = masks if isinstance(masks, dict) else dict.fromkeys(("full_attention", "sliding_attention"), masks)
        return {kind: torch.zeros_like(m, dtype=self.dtype).masked_fill_(~m, -torch.inf) for kind, m in given.items()}

    def _head_normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return x if weight is None else torch.rms_norm(x.float(), (x.shape[-1],), weight, self._epsilon)

    def _turned(self, x: Tensor, turn: Tensor) -> Tensor:
        """Rotary position: the two halves of a head are the real and the imaginary parts of numbers that are turned."""
        first, second = x.float().chunk(2, -1)
        turned = torch.view_as_real(torch.complex(first, second) * turn)
        return turned.transpose(-1, -2).reshape(x.shape).to(self.dtype)


def _block(layer: Any, attention: str, kind: Packed | None) -> Block:  # noqa: ANN401 - each family's own class
    mine, mlp = layer.self_attn, layer.mlp
    q_norm, k_norm = getattr(mine, "q_norm", None), getattr(mine, "k_norm", None)
    return Block(
        qkv=_product([mine.q_proj, mine.k_proj, mine.v_proj], kind),
        o=_product([mine.o_proj], kind),
        gate_up=_product([mlp.gate_proj, mlp.up_proj], kind),
        down=_product([mlp.down_proj], kind),
        before_attention=layer.input_layernorm.weight.float(),
        before_mlp=layer.post_attention_layernorm.weight.float(),
        q_norm=None if q_norm is None else q_norm.weight.float(),
        k_norm=None if k_norm is None else k_norm.weight.float(),
        attention=attention,
    )


def _product(layers: list[nn.Linear], kind: Packed | None) -> Product:
    """The outputs of layers of one input, side by side: by their own weights, or by one packed matrix."""
    if kind is None:
        return lambda x: torch.cat([_own(layer, x) for layer in layers], -1) if len(layers) > 1 else _own(layers[0], x)
    product = packed(torch.cat([layer.weight.detach() for layer in layers]), kind)
    if layers[0].bias is None:
        return product
    bias = torch.cat([layer.bias for layer in layers])
    return lambda x: product(x) + bias


def _own(layer: nn.Linear, x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_out"]:
    """A layer's outputs. torch multiplies one row of bfloat16 by another routine, which rounds in another way."""
    return layer(x.expand(2, -1))[:1] if len(x) == 1 and x.dtype != torch.float32 else layer(x)
