"""Continuous batch: all running sequences in one forward pass per step, each with its own spec.

Each token has a row of a steering table, each sequence a row of the key-value cache. Prompts are
prefilled in chunks between decode steps, from the end of the cached prefix on. Used by one thread
only.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import structlog
import torch
from torch import Tensor
from transformers import PreTrainedModel

from server.engines.base import EngineFailed, TextPiece
from server.engines.transformers.kv_cache import AttentionMasks, KVCache
from server.engines.transformers.llama_pass import BLOCK, LlamaPass
from server.engines.transformers.loading import decode_threads
from server.engines.transformers.mailbox import Mailbox
from server.engines.transformers.prefix_cache import PrefixCache
from server.engines.transformers.sampler import next_tokens
from server.engines.transformers.sequence import Sequence_
from steering.edits import SteeringTable
from steering.errors import SteeringError
from steering.model.hooks import layer_number, tap
from steering.sae import Scaling

log = structlog.get_logger(__name__)
CHUNK = 512
"""Number of prompt tokens computed between two decode steps."""
SCORED = 1 << 24
"""Number of logits computed at once for prompts that are scored, 64 MB: their tokens times the vocabulary."""
SPEAK_EVERY = 0.02
"""Seconds between two pieces of a reply. Each hand-over makes the engine wait for the interpreter's lock."""


class Batch:
    """The slots of one model, and their sequences."""

    def __init__(
        self,
        model: PreTrainedModel,
        mail: Mailbox[TextPiece | Exception],
        *,
        hooks: Sequence[str],
        scaling: Mapping[str, Scaling],
        places: int,
        prefix_mb: int,
        llama: LlamaPass | None = None,
    ) -> None:
        config = model.config.get_text_config()
        self.running: list[Sequence_] = []
        """In the order of their rows in the cache."""
        self.cores = torch.get_num_threads()
        """Threads for prefill and other long computations."""
        self._model, self._mail, self._device = model, mail, model.device
        self._few = decode_threads(model)
        width, self._vocab = int(config.hidden_size), int(config.vocab_size)
        self._tables = {
            h: SteeringTable(places + 1, width, device=model.device, scaling=scaling.get(h, "none")) for h in hooks
        }
        self._llama = llama
        self._masks = AttentionMasks(config, model.dtype, visible=llama is not None)
        self._cache = KVCache(places, int(config.max_position_embeddings))
        self._prefixes = PrefixCache(prefix_mb << 20)
        self._steered_rows: Tensor | None = None
        self._slots = list(range(1, places + 1))
        self._due, self._spoke = True, 0.0

    @property
    def full(self) -> bool:
        """Whether all slots are taken."""
        return not self._slots

    @contextmanager
    def tapped(self) -> Iterator[None]:
        """Context in which the model steers each token by its row."""
        with tap(self._model, {hook: self._tap(table) for hook, table in self._tables.items()}):
            yield

    def admit(self, sequence: Sequence_) -> None:
        """Assign table and cache rows to a sequence and load its cached prefix; an error here ends
        this sequence only."""
        sequence.slot, sequence.waited = self._slots.pop(), time.perf_counter() - sequence.came
        try:
            self._admit(sequence)
        except Exception:
            self._fail(sequence)
            self._free(sequence)

    def prefill(self) -> None:
        """One prefill step."""
        self._run_step(self._prefill, [s for s in self.running if s.is_prefilling])

    def decode(self) -> None:
        """One decode step."""
        self._run_step(self._decode, [s for s in self.running if not s.is_prefilling])

    def drop_cancelled(self) -> None:
        """Evict sequences that were cancelled."""
        for sequence in [s for s in self.running if s.cancelled]:
            self._evict(sequence)

    def _tap(self, table: SteeringTable) -> Callable[[Tensor], Tensor]:
        def act(x: Tensor) -> Tensor:
            rows = self._steered_rows
            return x if rows is None else table.apply(x, rows)

        return act

    def _admit(self, sequence: Sequence_) -> None:
        request = sequence.request
        for hook, edit in request.edits.items():
            if hook not in self._tables:
                raise SteeringError(f"no tap was proven at {hook!r}")
            self._tables[hook].set(sequence.slot, edit)
        known, kept = 0, None
        if not sequence.scores_prompt:  # what is read from the cache has no logits
            known, kept = self._prefixes.find(sequence.salt, *sequence.marks(0, len(request.ids) - 1))
        sequence.row, sequence.num_computed_tokens, sequence.cached = len(self.running), known, known
        if kept is not None:
            self._cache.put(sequence.row, kept, known)
        self.running.append(sequence)

    def _run_step(self, step: Callable[[list[Sequence_]], None], sequences: list[Sequence_]) -> None:
        if not sequences:
            return
        try:
            step(sequences)
        except Exception:  # the culprit is unknown, so all sequences of the pass end
            for sequence in [s for s in sequences if s in self.running]:
                self._fail(sequence)
                self._evict(sequence, keep=False)

    def _prefill(self, sequences: list[Sequence_]) -> None:
        """Compute a chunk of the prompts that were admitted first: of those to be scored, or of the others."""
        torch.set_num_threads(self.cores)
        scored = sequences[0].scores_prompt
        most = min(CHUNK, max(1, SCORED // self._vocab)) if scored else CHUNK
        longest = min(most, len(sequences[0].request.ids) - sequences[0].num_computed_tokens)
        chosen = [s for s in sequences if s.scores_prompt == scored][: max(1, most // longest)]
        spans = [(s.num_computed_tokens, min(len(s.request.ids), s.num_computed_tokens + longest)) for s in chosen]
        ids, steered = zip(*(s.marks(*span) for s, span in zip(chosen, spans, strict=True)), strict=True)
        at = torch.full((len(chosen), max(map(len, ids))), -1)
        tokens, rows = torch.zeros_like(at), torch.zeros_like(at)
        for i, (s, (start, end)) in enumerate(zip(chosen, spans, strict=True)):
            n = end - start
            at[i, :n], tokens[i, :n] = torch.arange(start, end), torch.tensor(ids[i])
            rows[i, :n] = torch.tensor(steered[i]) * s.slot
        ends = torch.tensor([e - a - 1 for a, e in spans])
        wanted = torch.arange(at.shape[1]) if scored else ends.unique()
        view = torch.tensor([s.row for s in chosen], device=self._device)
        logits = self._forward(view, tokens, at, rows, wanted, decoding=False)
        for s, (_, end) in zip(chosen, spans, strict=True):
            s.num_computed_tokens = end
        if scored:
            for s, (start, end), its in zip(chosen, spans, logits, strict=True):
                self._score(s, start, its[: end - start])
        done = [i for i, s in enumerate(chosen) if not s.is_prefilling and s in self.running]
        if speaking := [i for i in done if chosen[i].request.sampling.max_tokens]:
            last = torch.stack([logits[i, int((wanted == ends[i]).nonzero())] for i in speaking])
            self._emit([chosen[i] for i in speaking], last)
        for s in [chosen[i] for i in done if i not in speaking]:
            with self._ends_alone(s):
                self._send(s, s.end_at_prompt())

    def _score(self, sequence: Sequence_, start: int, logits: Tensor) -> None:
        """Note the log-probabilities of a chunk of a prompt."""
        if not bool(torch.isfinite(logits).all()):
            self._fail(sequence, "its numbers overflowed")
            self._evict(sequence, keep=False)
            return
        with self._ends_alone(sequence):
            sequence.score(start, logits)

    def _decode(self, sequences: list[Sequence_]) -> None:
        """Generate one token for each decoding sequence; prefilling ones are in the pass too and write nowhere."""
        torch.set_num_threads(self._few)
        at = torch.full((len(self.running), 1), -1)
        tokens, rows = torch.zeros_like(at), torch.zeros_like(at)
        for s in sequences:
            at[s.row], tokens[s.row] = s.num_computed_tokens, s.output_ids[-1]
            rows[s.row] = s.slot if s.request.edits and s.request.steers(s.output_ids[-1]) else 0
        logits = self._forward(slice(0, len(self.running)), tokens, at, rows, torch.tensor([0]), decoding=True)
        for s in sequences:
            s.num_computed_tokens += 1
        self._emit(sequences, logits[[s.row for s in sequences], 0])

    def _forward(
        self, view: slice | Tensor, tokens: Tensor, at: Tensor, rows: Tensor, wanted: Tensor, *, decoding: bool
    ) -> Tensor:
        """One pass over `tokens [batch, time]` at positions `at`; logits at the `wanted` times."""
        seen, steered = int(at.max()) + 1, bool(rows.any())
        if self._llama:
            seen = min(self._cache.longest, -(-seen // BLOCK) * BLOCK)
        tokens, at = tokens.to(self._device), at.to(self._device)
        self._cache.begin(view, at, seen)
        if self._llama:
            marked = rows.to(self._device)
            tables = {layer_number(hook): table for hook, table in self._tables.items()} if steered else {}
            steer = {n: partial(table.apply, rows=marked) for n, table in tables.items()}
            return self._llama(
                tokens, at, cache=self._cache, masks=self._masks, wanted=wanted, steer=steer, decoding=decoding
            )
        self._steered_rows = rows.to(self._device) if steered else None
        try:
            return self._model(
                input_ids=tokens,
                position_ids=at.clamp(min=0),
                attention_mask=self._masks.build(at, seen),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=wanted.to(self._device),
            ).logits.float()
        finally:
            self._steered_rows = None

    def _emit(self, sequences: list[Sequence_], logits: Tensor) -> None:
        """Sample a token for each sequence and emit it; evict finished ones."""
        rows = dict[Sequence_, Tensor]()
        for s, fine, row in zip(sequences, torch.isfinite(logits).all(-1).tolist(), logits, strict=True):
            if not fine:
                self._fail(s, "its numbers overflowed")
                self._evict(s, keep=False)
            else:
                with self._ends_alone(s):
                    s.draw.blocked = s.blocked
                    rows[s] = s.draw.adjusted(row)
        if not rows:
            return
        self._due = (now := time.monotonic()) - self._spoke >= SPEAK_EVERY
        self._spoke = now if self._due else self._spoke
        drawn = next_tokens(torch.stack([*rows.values()]), [s.draw for s in rows])
        plain = dict(zip(sequences, logits, strict=True))
        for s, token in zip(rows, drawn, strict=True):
            with self._ends_alone(s):
                self._send(s, s.emit(token, plain[s], due=self._due))

    def _send(self, sequence: Sequence_, piece: TextPiece) -> None:
        if piece.text or piece.finish_reason:
            self._mail.add(sequence.listener, piece)
        if piece.finish_reason:
            self._evict(sequence)

    @contextmanager
    def _ends_alone(self, sequence: Sequence_) -> Iterator[None]:
        """Context for work on one sequence: an error in it ends this sequence, and no other of the step."""
        try:
            yield
        except Exception:
            self._fail(sequence)
            if sequence in self.running:
                self._evict(sequence, keep=False)

    def _evict(self, sequence: Sequence_, *, keep: bool = True) -> None:
        """Free a sequence's rows and add its keys and values to the prefix cache."""
        if keep:
            self._cache_prefix(sequence)
        else:
            self._cache.wipe(sequence.row)
        last = self.running.pop()
        if last is not sequence:
            self._cache.move(last.row, sequence.row, last.num_computed_tokens)
            self.running[sequence.row], last.row = last, sequence.row
        self._free(sequence)

    def _cache_prefix(self, sequence: Sequence_) -> None:
        known = sequence.num_computed_tokens
        if self._llama and self._llama.packs:  # else a reply would depend on whether its conversation is still cached
            known = min(known, len(sequence.request.ids))
        if known > sequence.cached and self._prefixes.wants(self._cache.bytes_of(known)):
            kept = self._cache.take(sequence.row, known)
            self._prefixes.add(sequence.salt, *sequence.marks(0, known), kept)

    def _free(self, sequence: Sequence_) -> None:
        for hook in sequence.request.edits:
            if hook in self._tables:
                self._tables[hook].clear(sequence.slot)
        self._slots.append(sequence.slot)

    def _fail(self, sequence: Sequence_, why: str = "") -> None:
        log.error(
            "generation failed",
            fingerprint=sequence.request.fingerprint,
            prompt_tokens=len(sequence.request.ids),
            why=why,
            exc_info=not why,
        )
        self._mail.add(sequence.listener, EngineFailed("the engine failed on this request; it was not retried"))
