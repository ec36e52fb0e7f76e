"""Strength sweep: replies of several edits to many prompts, with KL and effect of each.

Prompts and edits are split into parts that fit into memory; the replies do not depend on the split.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from steering.doses.rollouts import Rollout, Rollouts
from steering.doses.sampling import GREEDY, Sampling
from steering.edits import ResidualEdit
from steering.model.chat_template import EncodedChat
from steering.spec import ASSISTANT, Where

ROOM = 64_000_000
"""Log-probabilities held at a time: 256 MB, a few times over."""


@dataclass(frozen=True)
class SweepResult:
    """Replies of one edit to all prompts, with their statistics."""

    replies: tuple[list[int], ...]
    """Token ids of the reply to each prompt."""
    logprobs: tuple[list[float], ...]
    """Log-probability of each token of each reply, under the unsteered model."""
    kl: float
    """95th percentile over all tokens, nats from the unsteered model."""
    effect: float | None
    """Log-odds of the words minus the unsteered model's, mean over prompts; None without words."""


@dataclass
class _Parts:
    rolled: list[Rollout]
    effects: list[Tensor]

    def concatenate(self) -> SweepResult:
        """Return all parts as one result."""
        replies = tuple(ids for r in self.rolled for ids in r.replies)
        logprobs, kl = torch.cat([r.logprob for r in self.rolled]), torch.cat([r.kl for r in self.rolled])
        lengths = [len(ids) for ids in replies]
        return SweepResult(
            replies,
            tuple(part.tolist() for part in logprobs.split(lengths)),
            float(kl.quantile(0.95)),
            float(torch.cat(self.effects).mean()) if self.effects else None,
        )


def sweep(
    model: PreTrainedModel,
    hook: str,
    chats: Sequence[EncodedChat],
    edits: Sequence[ResidualEdit],
    words: Int[Tensor, " words"],
    *,
    tokens: int,
    draw: Sampling = GREEDY,
    where: Where = ASSISTANT,
    on_progress: Callable[[float], None] = lambda _: None,
) -> tuple[SweepResult, list[SweepResult]]:
    """Generate the replies of the unsteered model and of every edit. `on_progress` is called with the share that is done."""
    room = max(1, ROOM // (tokens * int(model.config.get_text_config().vocab_size)))
    plain, parts = _Parts([], []), [_Parts([], []) for _ in edits]
    for start in range(0, len(chats), room):
        some = chats[start : start + room]
        stage = Rollouts.prepare(
            model, hook, some, tokens=tokens, draw=replace(draw, seed=draw.seed + start), where=where
        )
        plain.rolled.append(stage.plain)
        at_once = max(1, room // stage.prompts)
        for first in range(0, len(edits), at_once):
            group = edits[first : first + at_once]
            effects = stage.effects(group, [words]) if len(words) else []
            for part, rolled in zip(parts[first:], stage.run(group), strict=False):
                part.rolled.append(rolled)
            for part, effect in zip(parts[first:], effects, strict=False):
                part.effects.append(effect[0])
            on_progress((start * len(edits) + len(some) * (first + len(group))) / (len(chats) * len(edits)))
    return plain.concatenate(), [p.concatenate() for p in parts]
