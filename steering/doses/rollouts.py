"""Rollouts: replies under many edits in one batch, compared with the unsteered model's.

`Rollouts` holds fixed prompts and the unsteered model's replies. `run` generates a reply of every edit to every prompt,
greedily by default, and compares token by token. `effects` measures by how much an edit raises given words, on the
unsteered replies, so that what the edit itself generates does not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from steering.edits import ResidualEdit, SteeringTable
from steering.evaluate.coherence import rep3
from steering.model.chat_template import EncodedChat
from steering.model.hooks import tap

QUESTIONS = (
    "What should I do this weekend?",
    "Tell me a story.",
    "How are you today?",
    "What is a good breakfast?",
    "Can you recommend a book?",
    "Why is the sky blue?",
    "I feel tired today.",
    "Describe your favourite place.",
    "How do I make friends?",
    "What is the weather like in spring?",
    "Give me some advice.",
    "Who are you?",
    "Tell me about dogs.",
    "What can I cook tonight?",
    "How can I sleep better?",
    "What makes people happy?",
)
"""Default prompts: everyday questions that call for no concept."""
TOKENS = 24
FLOOR = 1e-4
"""Added to the words' probability: a rise from one in a billion to one in a million is no visible effect, and any push
at all does that to most words.
"""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: at temperature 0 greedily. All edits share the random numbers, prompt by prompt."""

    temperature: float = 0.0
    seed: int = 0
    """Seed of the first prompt; the following ones count up."""


GREEDY = Sampling()


@dataclass(frozen=True, eq=False)
class Rollout:
    """Replies of one edit to all prompts, with their statistics."""

    kl: Float[Tensor, " tokens"]
    """KL divergence in nats from the unsteered next-token distribution, at every generated token."""
    logprob: Float[Tensor, " tokens"]
    """Log-probabilities of the generated tokens under the unsteered model."""
    entropy: float
    """Mean entropy of the steered distributions."""
    repetition: float
    """Share of 3-grams that occur more than once, mean over prompts."""
    replies: list[list[int]]


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Prompts with generation prompt, left-padded, and the unsteered model's replies to them."""

    model: PreTrainedModel
    hook: str
    ids: Int[Tensor, "prompts time"]
    real: Bool[Tensor, "prompts time"]
    steered: Bool[Tensor, "prompts time"]
    ends: frozenset[int]
    tokens: int
    plain: Rollout
    replies: Int[Tensor, "prompts tokens"]
    """Unsteered replies; undefined after the end of a reply."""
    spoken: Bool[Tensor, "prompts tokens"]
    """Mask of the tokens that belong to the reply."""
    draw: Sampling = GREEDY

    @staticmethod
    def prepare(
        model: PreTrainedModel,
        hook: str,
        chats: Sequence[EncodedChat],
        *,
        tokens: int = TOKENS,
        draw: Sampling = GREEDY,
    ) -> "Rollouts":
        """Generate the unsteered replies. `chats` end with the generation prompt."""
        longest = max(len(c.ids) for c in chats)
        pad = lambda row, fill: [fill] * (longest - len(row)) + list(row)  # noqa: E731
        place = model.device
        ids = torch.tensor([pad(c.ids, 0) for c in chats], device=place)
        real = torch.tensor([pad((True,) * len(c.ids), False) for c in chats], device=place)
        steered = torch.tensor([pad(c.assistant, False) for c in chats], device=place)
        ends = _end_ids(model)
        said, logs = _replies(model, hook, ids, real, steered, [], tokens, draw)
        spoken = _until_end(said, ends)
        plain = _statistics(said, spoken, logs, logs, 1)[0]
        return Rollouts(model, hook, ids, real, steered, ends, tokens, plain, said, spoken, draw)

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return len(self.ids)

    @torch.no_grad()
    def run(self, edits: Sequence[ResidualEdit]) -> list[Rollout]:
        """Generate the replies of every edit to every prompt, all in one batch."""
        n = len(edits)
        ids, real, steered = (t.repeat(n, 1) for t in (self.ids, self.real, self.steered))
        said, logs = _replies(self.model, self.hook, ids, real, steered, edits, self.tokens, self.draw)
        spoken = _until_end(said, self.ends)
        plain = self._log_probs(torch.cat([ids, said], 1), torch.cat([real, torch.ones_like(spoken)], 1))
        return _statistics(said, spoken, logs, plain, n)

    @torch.no_grad()
    def effects(
        self, edits: Sequence[ResidualEdit], words: Sequence[Int[Tensor, " words"]]
    ) -> list[Float[Tensor, "lists prompts"]]:
        """Return by how many nats each edit raises the log-odds of each list of words, mean over the unsteered reply's
        tokens.
        """
        n = len(edits)
        ids = torch.cat([self.ids, self.replies], 1).repeat(n, 1)
        real = torch.cat([self.real, torch.ones_like(self.spoken)], 1).repeat(n, 1)
        steered = torch.cat([self.steered, torch.ones_like(self.spoken)], 1).repeat(n, 1)
        table = _table(edits, self.model)
        rows = _table_rows(steered, n)
        with tap(self.model, {self.hook: lambda x: table.apply(x, rows)}):
            logs = self._log_probs(ids, real).view(n, self.prompts, self.tokens, -1)
        weight = self.spoken.float() / self.spoken.sum(1, keepdim=True).clamp(min=1)
        found = []
        for one in logs:
            odds = torch.stack([_log_odds(one, w) for w in words])  # [lists, prompts, tokens]
            base = torch.stack([_log_odds(self._unsteered_log_probs, w) for w in words])
            found.append(((odds - base) * weight).sum(-1))
        return found

    @cached_property
    def _unsteered_log_probs(self) -> Float[Tensor, "prompts tokens vocab"]:
        with torch.no_grad():
            return self._log_probs(
                torch.cat([self.ids, self.replies], 1), torch.cat([self.real, torch.ones_like(self.spoken)], 1)
            )

    def _log_probs(self, ids: Tensor, real: Tensor) -> Float[Tensor, "rows tokens vocab"]:
        """Log-probabilities at the position before each generated token."""
        out = self.model(
            input_ids=ids,
            attention_mask=real.long(),
            position_ids=_positions(real),
            use_cache=False,
            logits_to_keep=self.tokens + 1,
        )
        return out.logits[:, :-1].float().log_softmax(-1)


def _replies(
    model: PreTrainedModel,
    hook: str,
    ids: Tensor,
    real: Tensor,
    steered: Tensor,
    edits: Sequence[ResidualEdit],
    tokens: int,
    draw: Sampling,
) -> tuple[Int[Tensor, "rows tokens"], Float[Tensor, "rows tokens vocab"]]:
    """Return continuations and the log-probabilities they were chosen from; one edit for each block of rows."""
    n = max(1, len(edits))
    chances = [torch.Generator().manual_seed(draw.seed + i) for i in range(len(ids) // n)]
    table, rows = _table(edits, model), _table_rows(steered, n) if edits else torch.zeros_like(ids)
    cache, said, logs, at = DynamicCache(), [], [], {"rows": rows}
    new = rows.amax(1, keepdim=True)  # generated tokens are steered where the prompt is
    step, mask = ids, real
    with torch.no_grad(), tap(model, {hook: lambda x: table.apply(x, at["rows"])}):
        for _ in range(tokens):
            positions = _positions(mask)[:, -step.shape[1] :]
            out = model(
                input_ids=step,
                attention_mask=mask.long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logs.append(out.logits[:, -1].float().log_softmax(-1))
            step = _sample_next(logs[-1], draw.temperature, chances, n)
            said.append(step)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            at["rows"] = new
    return torch.cat(said, 1), torch.stack(logs, 1)


def _sample_next(
    logs: Float[Tensor, "rows vocab"], temperature: float, chances: Sequence[torch.Generator], n: int
) -> Int[Tensor, "rows 1"]:
    """Argmax, or a sample by the Gumbel-max trick; the noise is the same for all edits of a prompt."""
    if not temperature:
        return logs.argmax(-1, keepdim=True)
    uniform = torch.stack([torch.rand(logs.shape[1], generator=g, dtype=torch.float64) for g in chances])
    noise = -(-uniform.clamp(1e-12, 1 - 1e-12).log()).log()
    return (logs / temperature + noise.to(logs.device, logs.dtype).repeat(n, 1)).argmax(-1, keepdim=True)


def _table(edits: Sequence[ResidualEdit], model: PreTrainedModel) -> SteeringTable:
    width = edits[0].push.shape[0] if edits else 1
    gates = sum(len(e.gate) for e in edits)
    scaling = edits[0].scaling if edits else "none"
    table = SteeringTable(len(edits) + 1, width, gates=gates, device=model.device, scaling=scaling)
    for i, edit in enumerate(edits, 1):
        table.set(i, edit)
    return table


def _table_rows(steered: Tensor, n: int) -> Int[Tensor, "rows time"]:
    """Return each token's row of the table: its block's where it is steered, else 0."""
    block = torch.arange(1, n + 1, device=steered.device).repeat_interleave(len(steered) // n)
    return torch.where(steered, block[:, None], 0)


def _positions(real: Tensor) -> Tensor:
    return (real.long().cumsum(1) - 1).clamp(min=0)


def _until_end(replies: Tensor, ends: frozenset[int]) -> Bool[Tensor, "rows tokens"]:
    """Mask that is true up to and including the first end-of-sequence token."""
    over = torch.isin(replies, torch.tensor(sorted(ends), dtype=replies.dtype, device=replies.device))
    return (over.long().cumsum(1) - over.long()) == 0


def _end_ids(model: PreTrainedModel) -> frozenset[int]:
    ids = getattr(model.generation_config, "eos_token_id", None)
    return frozenset([ids] if isinstance(ids, int) else ids or [])


def _statistics(replies: Tensor, spoken: Tensor, steered: Tensor, plain: Tensor, n: int) -> list[Rollout]:
    kl = (steered.exp() * (steered - plain)).sum(-1).clamp(min=0)
    entropy = -(steered.exp() * steered).sum(-1)
    logprob = plain.gather(2, replies[..., None])[..., 0]
    found = []
    for s, on, k, h, p in zip(*(t.chunk(n) for t in (replies, spoken, kl, entropy, logprob)), strict=True):
        texts = [row[keep].tolist() for row, keep in zip(s, on, strict=True)]
        repetition = sum(map(rep3, texts)) / len(texts)
        found.append(Rollout(k[on].cpu(), p[on].cpu(), float(h[on].mean()), repetition, texts))
    return found


def _log_odds(logs: Float[Tensor, "prompts tokens vocab"], words: Tensor) -> Float[Tensor, "prompts tokens"]:
    p = (logs[..., words].logsumexp(-1).exp() + FLOOR).clamp(max=1 - 1e-6)
    return p.log() - torch.log1p(-p)
