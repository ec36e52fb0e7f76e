"""Rollouts: replies under many edits in one batch, compared with the unsteered model's.

`Rollouts` holds fixed prompts and the unsteered model's replies. `run` generates a reply of every edit to every prompt,
greedily by default, and compares token by token. `effects` measures by how much an edit raises given words, on the
unsteered replies, so that what the edit itself generates does not count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from steering.doses.sampling import GREEDY, Sampling, penalized, sample_next
from steering.edits import ResidualEdit, SteeringTable
from steering.evaluate.coherence import rep3
from steering.model.chat_template import EncodedChat
from steering.model.hooks import tap
from steering.model.kv_cache import keys_and_values, preallocated
from steering.spec import ASSISTANT, Where

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
    "How do I bake bread?",
    "What did people do before telephones?",
    "Help me write a birthday card.",
    "What is the best way to learn a language?",
    "My neighbour is too loud. What can I do?",
    "What should I pack for a trip?",
    "Explain how a bicycle works.",
    "What do you like most?",
    "How do plants grow?",
    "Can you give me an idea for a party?",
    "I had a bad day at work.",
    "What is money for?",
    "How do I keep a room tidy?",
    "Tell me something interesting.",
    "Why do we sleep?",
    "What would you do with a free afternoon?",
)
"""Default prompts: everyday questions that call for no concept."""
TOKENS = 24
LOGITS = 40_000_000
"""Logits held at a time where replies are read again: 160 MB, a few times over."""
FLOOR = 1e-4
"""Added to the words' probability: a rise from one in a billion to one in a million is no visible effect, and any push
at all does that to most words.
"""


@dataclass(frozen=True, eq=False)
class Rollout:
    """Replies of one edit to all prompts, with their statistics."""

    kl: Float[Tensor, " tokens"]
    """KL divergence in nats from the unsteered next-token distribution, at every generated token; empty if it was not
    measured, and `entropy` is NaN then.
    """
    logprob: Float[Tensor, " tokens"]
    """Log-probabilities of the generated tokens under the unsteered model."""
    entropy: float
    """Mean entropy of the steered distributions."""
    repetition: float
    """Share of 3-grams that occur more than once, mean over prompts."""
    replies: list[list[int]]
    streams: list[Float[Tensor, "tokens d_in"]]
    """The residual stream at the hook point where the unsteered model reads each reply, in the model's dtype."""

    @property
    def logprobs(self) -> list[list[float]]:
        """Log-probabilities under the unsteered model, reply by reply."""
        return [part.tolist() for part in self.logprob.split([len(ids) for ids in self.replies])]


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
    prefix: "Prefix"
    draw: Sampling = GREEDY

    @staticmethod
    def prepare(
        model: PreTrainedModel,
        hook: str,
        chats: Sequence[EncodedChat],
        *,
        tokens: int = TOKENS,
        draw: Sampling = GREEDY,
        where: Where = ASSISTANT,
    ) -> "Rollouts":
        """Generate the unsteered replies. `chats` end with the generation prompt; edits act on their tokens in `where`."""
        longest = max(len(c.ids) for c in chats)
        pad = lambda row, fill: [fill] * (longest - len(row)) + list(row)  # noqa: E731
        place = model.device
        ids = torch.tensor([pad(c.ids, 0) for c in chats], device=place)
        real = torch.tensor([pad((True,) * len(c.ids), False) for c in chats], device=place)
        steered = torch.tensor([pad(c.steered(where), False) for c in chats], device=place)
        ends, prefix = _end_ids(model), Prefix.read(model, ids, real, steered)
        said = _replies(model, hook, prefix, ids, real, steered, [], tokens, draw)
        spoken = _until_end(said, ends)
        rolls = Rollouts(model, hook, ids, real, steered, ends, tokens, _NOTHING, said, spoken, prefix, draw)
        return replace(rolls, plain=rolls._read(said, spoken, [], len(chats), kl=True)[0])

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return len(self.ids)

    @torch.no_grad()
    def run(self, edits: Sequence[ResidualEdit], *, seed: int | None = None, kl: bool = True) -> list[Rollout]:
        """Generate the replies of every edit to every prompt, all in one batch; `seed` replaces the sampling's.

        Without `kl` the steered model does not read the replies again, which saves a third of the time.
        """
        n = len(edits)
        draw = self.draw if seed is None else replace(self.draw, seed=seed)
        ids, real, steered = (t.repeat(n, 1) for t in (self.ids, self.real, self.steered))
        said = _replies(self.model, self.hook, self.prefix, ids, real, steered, edits, self.tokens, draw)
        spoken = _until_end(said, self.ends)
        return self._read(said, spoken, edits, self.prompts, kl=kl)

    @torch.no_grad()
    def effects(
        self, edits: Sequence[ResidualEdit], words: Sequence[Int[Tensor, " words"]]
    ) -> list[Float[Tensor, "lists prompts"]]:
        """Return by how many nats each edit raises the log-odds of each list of words, mean over the unsteered reply's
        tokens.
        """
        logs = self._log_probs_of_replies(edits)
        weight = self.spoken.float() / self.spoken.sum(1, keepdim=True).clamp(min=1)
        found = []
        for one in logs:
            odds = torch.stack([_log_odds(one, w) for w in words])  # [lists, prompts, tokens]
            base = torch.stack([_log_odds(self._unsteered_log_probs, w) for w in words])
            found.append(((odds - base) * weight).sum(-1))
        return found

    @torch.no_grad()
    def divergence(self, edit: ResidualEdit) -> float:
        """Return the KL divergence of an edit's next-token distribution from the unsteered one, on the unsteered replies:
        nats, mean over tokens.
        """
        (steered,), plain = self._log_probs_of_replies([edit]), self._unsteered_log_probs
        kl = (steered.exp() * (steered - plain)).sum(-1)
        return float(kl[self.spoken].mean())

    def _log_probs_of_replies(self, edits: Sequence[ResidualEdit]) -> Float[Tensor, "edits prompts tokens vocab"]:
        """Log-probabilities with which the steered model reads the unsteered replies."""
        n = len(edits)
        ids = torch.cat([self.ids, self.replies], 1).repeat(n, 1)
        real = torch.cat([self.real, torch.ones_like(self.spoken)], 1).repeat(n, 1)
        steered = torch.cat([self.steered, torch.ones_like(self.spoken)], 1).repeat(n, 1)
        table = _table(edits, self.model)
        rows = _table_rows(steered, n)[:, self.prefix.length :]
        with tap(self.model, {self.hook: lambda x: table.apply(x, rows)}):
            logs = self._logits(ids, real, torch.arange(len(ids)) % self.prompts)
        return logs.view(n, self.prompts, self.tokens, -1)

    @torch.no_grad()
    def _read(
        self, said: Tensor, spoken: Tensor, edits: Sequence[ResidualEdit], each: int, *, kl: bool
    ) -> list[Rollout]:
        """Read replies again, by the unsteered and with `kl` by the steered model, few rows at a time: logits are large."""
        n = len(said) // each
        ids = torch.cat([self.ids.repeat(n, 1), said], 1)
        real = torch.cat([self.real.repeat(n, 1), torch.ones_like(spoken)], 1)
        rows = _table_rows(torch.cat([self.steered.repeat(n, 1), torch.ones_like(spoken)], 1), n)
        table, parts, before = _table(edits, self.model), list[tuple[Tensor, ...]](), self.prefix.length
        room = max(1, LOGITS // (self.tokens * int(self.model.config.get_text_config().vocab_size)))
        for some in torch.arange(len(ids)).split(room):
            streams: list[Tensor] = []
            with tap(self.model, {self.hook: _recording(streams)}):
                plain = self._logits(ids[some], real[some], some % each)
            steered = plain
            if edits and kl:
                at = rows[some, before:]
                with tap(self.model, {self.hook: lambda x, at=at: table.apply(x, at)}):
                    steered = self._logits(ids[some], real[some], some % each)
            parts.append((*_distance(steered, plain, kl), *_read_part(plain, said[some], streams[0])))
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        return [
            _rollout(said[b], spoken[b], *(column[b] for column in columns))
            for b in torch.arange(len(said)).split(each)
        ]

    @cached_property
    def _unsteered_log_probs(self) -> Float[Tensor, "prompts tokens vocab"]:
        with torch.no_grad():
            ids = torch.cat([self.ids, self.replies], 1)
            real = torch.cat([self.real, torch.ones_like(self.spoken)], 1)
            return self._logits(ids, real, torch.arange(len(ids)))

    def _logits(self, ids: Tensor, real: Tensor, prompts: Int[Tensor, " rows"]) -> Float[Tensor, "rows tokens vocab"]:
        """Log-probabilities at the position before each generated token; `prompts` says whose prompt a row begins with."""
        before = self.prefix.length
        out = self.model(
            input_ids=ids[:, before:],
            attention_mask=real.long(),
            position_ids=_positions(real)[:, before:],
            past_key_values=self.prefix.cache(prompts, ids.shape[1] - before),
            use_cache=True,
            logits_to_keep=self.tokens + 1,
        )
        return out.logits[:, :-1].float().log_softmax(-1)


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of the prompts up to the first steered column: no edit changes them, so they are read once."""

    length: int
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values of each layer, `[prompts, heads, length, head_dim]`."""

    @staticmethod
    @torch.no_grad()
    def read(model: PreTrainedModel, ids: Tensor, real: Tensor, steered: Tensor) -> "Prefix":
        """Read left-padded prompts up to where one of them is steered; the last column is never part of it."""
        length = min(int((~steered.any(0)).long().cumprod(0).sum()), ids.shape[1] - 1)
        if not length:
            return Prefix(0, ())
        cache = DynamicCache()
        model(
            input_ids=ids[:, :length],
            attention_mask=real[:, :length].long(),
            position_ids=_positions(real)[:, :length],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        held = keys_and_values(cache)
        return Prefix(length, held) if held else Prefix(0, ())

    def cache(self, prompts: Int[Tensor, " rows"], room: int) -> Cache:
        """A cache that begins with these prompts, one per row, and has room for so many more tokens."""
        if not self.length:
            return DynamicCache()
        return preallocated([(k[prompts], v[prompts]) for k, v in self.layers], room)


def _replies(
    model: PreTrainedModel,
    hook: str,
    prefix: Prefix,
    ids: Tensor,
    real: Tensor,
    steered: Tensor,
    edits: Sequence[ResidualEdit],
    tokens: int,
    draw: Sampling,
) -> Int[Tensor, "rows tokens"]:
    """Return continuations; one edit for each block of rows."""
    n = max(1, len(edits))
    chances = [torch.Generator().manual_seed(draw.seed + i) for i in range(len(ids) // n)]
    table, rows = _table(edits, model), _table_rows(steered, n) if edits else torch.zeros_like(ids)
    prompts = torch.arange(len(ids), device=ids.device) % (len(ids) // n)
    cache, said, at = (
        prefix.cache(prompts, ids.shape[1] - prefix.length + tokens),
        list[Tensor](),
        {"rows": rows[:, prefix.length :]},
    )
    new = rows.amax(1, keepdim=True)  # generated tokens are steered where the prompt is
    over = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    ends = torch.tensor(sorted(_end_ids(model)), dtype=ids.dtype, device=ids.device)
    step, mask = ids[:, prefix.length :], real
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
            logits = penalized(out.logits[:, -1].float(), said, draw.repetition_penalty)
            step = sample_next(logits, draw, chances, n)
            said.append(step)
            over |= torch.isin(step[:, 0], ends)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            at["rows"] = new
            if over.all():
                break
    end = said[-1].new_full((len(ids), tokens - len(said)), int(ends[0]) if len(ends) else 0)
    return torch.cat([*said, end], 1)


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


def _until_end(said: Tensor, ends: frozenset[int]) -> Bool[Tensor, "rows tokens"]:
    """Mask that is true up to and including the first end-of-sequence token."""
    over = torch.isin(said, torch.tensor(sorted(ends), dtype=said.dtype, device=said.device))
    return (over.long().cumsum(1) - over.long()) == 0


def _end_ids(model: PreTrainedModel) -> frozenset[int]:
    given = getattr(model.generation_config, "eos_token_id", None)
    return frozenset([given] if isinstance(given, int) else given or [])


def _distance(steered: Tensor, plain: Tensor, kl: bool) -> tuple[Tensor, Tensor]:
    """KL divergence from the unsteered distributions, and the entropy of the steered ones; NaN if not wanted."""
    if not kl:
        unknown = steered.new_full(steered.shape[:2], torch.nan)
        return unknown, unknown
    return (steered.exp() * (steered - plain)).sum(-1).clamp(min=0), -(steered.exp() * steered).sum(-1)


def _read_part(plain: Tensor, said: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the tokens, and the residual stream where they are read."""
    return plain.gather(2, said[..., None])[..., 0], stream[:, -said.shape[1] :].clone()


def _recording(streams: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def keep(x: Tensor) -> Tensor:
        streams.append(x)
        return x

    return keep


def _rollout(said: Tensor, spoken: Tensor, kl: Tensor, entropy: Tensor, logprob: Tensor, stream: Tensor) -> Rollout:
    texts = [row[keep].tolist() for row, keep in zip(said, spoken, strict=True)]
    return Rollout(
        kl[spoken & ~kl.isnan()].cpu(),
        logprob[spoken].cpu(),
        float(entropy[spoken].mean()),
        sum(map(rep3, texts)) / len(texts),
        texts,
        [x[keep].cpu() for x, keep in zip(stream, spoken, strict=True)],
    )


def _log_odds(logs: Float[Tensor, "prompts tokens vocab"], words: Tensor) -> Float[Tensor, "prompts tokens"]:
    p = (logs[..., words].logsumexp(-1).exp() + FLOOR).clamp(max=1 - 1e-6)
    return p.log() - torch.log1p(-p)


_NOTHING = Rollout(torch.zeros(0), torch.zeros(0), 0.0, 0.0, [], [])
