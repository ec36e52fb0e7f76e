"""A Llama's forward pass in bfloat16, without modules: reads many texts at once, and writes many at once.

Knows token ids and tensors; nothing of chats, files or SAEs. Queries of one group stand as rows beside one another, so
keys and values are never repeated. Sums of squares are float32 inside `rms_norm`; all else is bfloat16.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu


@dataclass(frozen=True, eq=False)
class Block:
    """Weights of one layer; queries, keys and values in one matrix, gate and up in another."""

    norm_in: Tensor
    qkv: Tensor
    out: Tensor
    norm_mid: Tensor
    gate_up: Tensor
    down: Tensor


class Lean:
    """The model's weights and its two acts: `read` and `step`."""

    def __init__(self, folder: Path, *, dtype: torch.dtype = torch.bfloat16, longest: int = 1024) -> None:
        """Read a checkpoint; no text may be longer than `longest`."""
        config = json.loads((folder / "config.json").read_text())
        w = {name.removeprefix("model."): t.to(dtype) for name, t in load_file(folder / "model.safetensors").items()}
        self.d, self.eps = config["hidden_size"], config["rms_norm_eps"]
        self.heads, self.kv = config["num_attention_heads"], config["num_key_value_heads"]
        self.head = self.d // self.heads
        self.embedding, self.norm = w["embed_tokens.weight"], w["norm.weight"]
        self.blocks = [_block(w, f"layers.{i}.") for i in range(config["num_hidden_layers"])]
        theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        frequency = theta ** (-torch.arange(0, self.head, 2).float() / self.head)
        angle = torch.arange(longest).float()[:, None] * frequency
        self.cos, self.sin = angle.cos().to(dtype), angle.sin().to(dtype)

    @torch.inference_mode()
    def read(
        self, ids: Tensor, layers: Collection[int], *, push: tuple[int, Tensor] | None = None
    ) -> dict[int, Tensor]:
        """The stream after each of `layers`, `[batch, time, d]`, of texts padded on the right.

        `push` is a layer and what is added to the stream after it.
        """
        batch, time = ids.shape
        x, found = self.embedding[ids], {}
        cos, sin = self.cos[:time], self.sin[:time]
        for i in range(max(layers) + 1):
            b = self.blocks[i]
            q, k, v = self._qkv(b, x, cos, sin)
            q = q.view(batch, time, self.heads, self.head).transpose(1, 2)
            k, v = (t.view(batch, time, self.kv, self.head).transpose(1, 2) for t in (k, v))
            a = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = self._rest(b, x, a.transpose(1, 2).reshape(batch, time, self.d))
            if push is not None and i == push[0]:
                x = x + push[1]
            if i in layers:
                found[i] = x
        return found

    def logits(self, x: Tensor) -> Tensor:
        """Of the next token, from the stream after the last layer."""
        return linear(torch.rms_norm(x, (self.d,), self.norm, self.eps), self.embedding)

    def _qkv(self, b: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Sequence[Tensor]:
        """Queries, keys (both turned by their position) and values, each `[batch, time, heads, head]`."""
        h = linear(torch.rms_norm(x, (self.d,), b.norm_in, self.eps), b.qkv)
        h = h.view(*x.shape[:2], -1, self.head)
        turned, v = h[:, :, : self.heads + self.kv], h[:, :, self.heads + self.kv :]
        one, two = turned.chunk(2, -1)
        cos, sin = cos[..., None, :], sin[..., None, :]
        turned = torch.cat([one * cos - two * sin, two * cos + one * sin], -1)
        return turned[:, :, : self.heads], turned[:, :, self.heads :], v

    def _rest(self, b: Block, x: Tensor, attended: Tensor) -> Tensor:
        x = x + linear(attended, b.out)
        gate, up = linear(torch.rms_norm(x, (self.d,), b.norm_mid, self.eps), b.gate_up).chunk(2, -1)
        return x + linear(silu(gate) * up, b.down)


class Writing:
    """Texts that grow by a token a step; each row of the batch may be pushed along its own direction."""

    def __init__(self, model: Lean, prompts: list[list[int]], room: int, push: Tensor | None, layer: int) -> None:
        """`push [batch, d]` is added to the stream after `layer`; `room` is for prompt and reply together."""
        self.model, self.push, self.layer = model, push, layer
        n, longest = len(prompts), max(map(len, prompts))
        ids = torch.zeros(n, longest, dtype=torch.long)
        self.seen = torch.zeros(n, room, dtype=torch.bool)
        for i, prompt in enumerate(prompts):  # on the left, so that all rows write at the same place
            ids[i, longest - len(prompt) :] = torch.tensor(prompt)
            self.seen[i, longest - len(prompt) : longest] = True
        self.cache = [torch.zeros(2, n, model.kv, room, model.head, dtype=model.embedding.dtype) for _ in model.blocks]
        self.at = 0
        self.pad = torch.tensor([longest - len(p) for p in prompts])
        self.next = self._go(ids)

    def step(self, ids: Tensor) -> None:
        """Take in one token for each row; `next` are then the logits of the one after."""
        self.seen[:, self.at] = True
        self.next = self._go(ids[:, None])

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.cache = [c[:, rows] for c in self.cache]
        self.seen, self.pad, self.next = self.seen[rows], self.pad[rows], self.next[rows]
        self.push = None if self.push is None else self.push[rows]

    @torch.inference_mode()
    def _go(self, ids: Tensor) -> Tensor:
        m, (n, time), end = self.model, ids.shape, self.at + ids.shape[1]
        group = m.heads // m.kv
        position = (torch.arange(self.at, end)[None] - self.pad[:, None]).clamp_min(0)
        cos, sin = m.cos[position], m.sin[position]
        allowed = self.seen[:, None, :end] & (torch.arange(end)[None, :] <= torch.arange(self.at, end)[:, None])
        allowed = allowed | (torch.arange(end)[None, :] == torch.arange(self.at, end)[:, None])
        mask = allowed[:, None].repeat(1, 1, group, 1)
        x = m.embedding[ids]
        for i, (b, c) in enumerate(zip(m.blocks, self.cache, strict=True)):
            q, k, v = m._qkv(b, x, cos, sin)
            c[0, :, :, self.at : end] = k.transpose(1, 2)
            c[1, :, :, self.at : end] = v.transpose(1, 2)
            q = q.reshape(n, time, m.kv, group, m.head).permute(0, 2, 3, 1, 4).reshape(n, m.kv, group * time, m.head)
            a = scaled_dot_product_attention(q, c[0, :, :, :end], c[1, :, :, :end], attn_mask=mask)
            a = a.view(n, m.kv, group, time, m.head).permute(0, 3, 1, 2, 4).reshape(n, time, m.d)
            x = m._rest(b, x, a)
            if self.push is not None and i == self.layer:
                x = x + self.push[:, None]
        self.at = end
        return m.logits(x[:, -1])


def _block(w: dict[str, Tensor], at: str) -> Block:
    def of(*names: str) -> Tensor:
        return torch.cat([w[f"{at}{name}.weight"] for name in names]).contiguous()

    return Block(
        of("input_layernorm"),
        of("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        of("self_attn.o_proj"),
        of("post_attention_layernorm"),
        of("mlp.gate_proj", "mlp.up_proj"),
        of("mlp.down_proj"),
    )
