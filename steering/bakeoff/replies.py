"""Batched replies for tuning and measurement, steered or not, with log-probabilities and repetition.

One padded batch through `generate()`; the server has its own engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.edits import ResidualEdit
from steering.evaluate.coherence import rep3
from steering.model.chat_template import Message, encode_chat
from steering.model.hooks import steer
from steering.spec import ASSISTANT, Where


class SamplingArguments(TypedDict):
    """How tokens are sampled, as keyword arguments of `reply` and of `generate()`."""

    temperature: float
    top_p: float | None
    repetition_penalty: float


@dataclass(frozen=True)
class Replies:
    """Texts, with the mean log-probability of each under the unsteered model, per token."""

    texts: list[str]
    logprobs: list[float]

    @property
    def rep3(self) -> float:
        """Mean share of repeated word 3-grams."""
        return sum(map(rep3, self.texts)) / len(self.texts)

    @property
    def logprob(self) -> float:
        """Mean over the replies."""
        return sum(self.logprobs) / len(self.logprobs)

    @property
    def words(self) -> float:
        """Mean length in words."""
        return sum(len(t.split()) for t in self.texts) / len(self.texts)


@torch.no_grad()
def reply(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    edits: Mapping[str, ResidualEdit],
    *,
    system: str | None = None,
    temperature: float = 0.5,
    tokens: int = 56,
    seed: int = 0,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    where: Where = ASSISTANT,
) -> Replies:
    """Generate a reply to every prompt, with the same edits on the tokens in `where`."""
    chats = [encode_chat(tokenizer, _chat(p, system)) for p in prompts]
    ids, real, steered = _left_padded([c.ids for c in chats], [c.steered(where) for c in chats])
    torch.manual_seed(seed)
    with steer(model, edits, where=steered):
        out = model.generate(  # pyright: ignore[reportCallIssue] - transformers types its mixin as a tensor
            input_ids=ids,
            attention_mask=real,
            max_new_tokens=tokens,
            pad_token_id=0,
            do_sample=temperature > 0,
            temperature=temperature or None,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
        )
    new = out[:, ids.shape[1] :]
    plain = [encode_chat(tokenizer, _chat(p, None)) for p in prompts]
    spoken = [_until_end(row.tolist(), tokenizer) for row in new]
    return Replies(
        [str(tokenizer.decode(s, skip_special_tokens=True)) for s in spoken],
        _logprobs(model, [c.ids for c in plain], spoken),
    )


def _chat(prompt: str, system: str | None) -> list[Message]:
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": prompt}]


def _left_padded(rows: Sequence[tuple[int, ...]], masks: Sequence[tuple[bool, ...]]) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(r)) + list(r) for r in rows])
    real = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
    steered = torch.tensor([[False] * (longest - len(m)) + list(m) for m in masks])
    return ids, real, steered


def _until_end(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    end = tokenizer.eos_token_id
    return ids[: ids.index(end) + 1] if end in ids else ids


def _logprobs(model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], spoken: Sequence[list[int]]) -> list[float]:
    rows = [(*p, *s) for p, s in zip(prompts, spoken, strict=True)]
    ids, real, mine = _left_padded(
        rows, [tuple(i >= len(p) for i in range(len(r))) for p, r in zip(prompts, rows, strict=True)]
    )
    logits = (
        model(input_ids=ids, attention_mask=real, position_ids=(real.cumsum(1) - 1).clamp(min=0)).logits[:, :-1].float()
    )
    each = torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[..., 0]
    weight = mine[:, 1:].float()
    return ((each * weight).sum(1) / weight.sum(1).clamp(min=1)).tolist()
