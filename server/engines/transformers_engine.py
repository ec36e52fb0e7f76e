"""The embedded engine: a transformers model on CPU, CUDA or Apple. Knows tensors, threads and text.

One thread owns the model and gives all live sequences one forward pass per step, whatever their specs:
each token carries a row of a steering table, each sequence has a row of the key-value cache. A prompt
is computed in chunks between the others' steps, and only as far as no earlier turn has computed it.
Python hooks steer, so the model is never compiled; a probe at start proves that they do.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import structlog
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from server.engines.engine import EngineFailed, FinishReason, Generation, Overloaded, Piece, TokenLogprob
from server.engines.mail import Listener, Mail
from server.engines.prefixes import Prefixes
from server.engines.sampler import Draw, next_tokens
from server.engines.slots import Masks, SlotCache
from server.engines.spelled import spelled
from server.engines.text import TextStream
from server.engines.waiting import Waiting
from steering.chat import EncodedChat, Message, encode_chat
from steering.edits import ResidualEdit, SteeringTable
from steering.errors import BadBundle, SteeringError
from steering.hooks import decoder_layers, read_stream, record, steer, tap
from steering.sae import Scaling

log = structlog.get_logger(__name__)
T = TypeVar("T")
CHUNK = 512
"""So many prompt tokens are computed between two steps of those that already speak."""
RECORDED = 2048
"""So many tokens are recorded at once."""
SPEAK_EVERY = 0.02
"""Seconds between two pieces of a reply. Every word that is handed over costs the engine its interpreter's lock."""
THREAD_WORTH = 30_000_000
"""With fewer parameters a further thread waits longer at each layer's end than it helps to give a token."""


@dataclass(eq=False)
class _Sequence:
    """A generation in flight: owned by the engine's thread, but for `cancelled` and the listener."""

    request: Generation
    listener: Listener[Piece | Exception]
    text: TextStream
    draw: Draw
    slot: int = -1
    """Its row in the steering tables, for as long as it lives."""
    row: int = -1
    """Its row in the cache, which changes when others leave."""
    fed: int = 0
    """How many tokens' keys and values are in the cache."""
    cached: int = 0
    """How many of them an earlier turn had computed."""
    spoken: list[int] = field(default_factory=list)
    sent: int = 0
    """How many of the spoken tokens earlier pieces carried."""
    unsaid: str = ""
    """Their text, until the next piece is due."""
    unsent: list[TokenLogprob] = field(default_factory=list)
    cancelled: bool = False
    came: float = field(default_factory=time.perf_counter)
    waited: float = 0.0

    @property
    def reading(self) -> bool:
        """Whether some of its prompt was not computed yet."""
        return self.fed < len(self.request.ids)

    @property
    def salt(self) -> str:
        """What keys and values depend on beside the tokens."""
        r = self.request
        return "\0".join((r.tenant, r.revision, r.fingerprint if r.edits else ""))

    def marks(self, start: int, end: int) -> tuple[list[int], list[bool]]:
        """Ids and steered marks of its tokens from `start` to `end`; nothing is steered without an edit."""
        r, n = self.request, len(self.request.ids)
        ids = [*r.ids[start:end], *self.spoken[max(0, start - n) : max(0, end - n)]]
        steered = [*r.steered[start:end], *[r.steer_new] * (max(0, end - n) - max(0, start - n))]
        return ids, steered if r.edits else [False] * len(ids)


class TransformersEngine:
    """Serves one model. Close it to end its thread."""

    name = "transformers"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        hooks: Sequence[str],
        scaling: Mapping[str, Scaling] | None = None,
        live: int = 16,
        queue: int = 64,
        prefix_mb: int = 256,
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        config = model.config.get_text_config()
        self.max_model_len, self.vocab_size = int(config.max_position_embeddings), int(config.vocab_size)
        self.device, self.width = model.device, int(config.hidden_size)
        self._eos = _eos_ids(model, tokenizer)
        self._cores, self._few = torch.get_num_threads(), _threads(model)
        for hook in hooks:
            prove_tap(model, hook)
        scaling = scaling or {}
        self._tables = {
            h: SteeringTable(live + 1, self.width, device=self.device, scaling=scaling.get(h, "none")) for h in hooks
        }
        self._masks = Masks(config, model.dtype)
        self._cache = SlotCache(live, self.max_model_len)
        self._prefixes = Prefixes(prefix_mb << 20)
        self._steered_rows: Tensor | None = None
        self._slots = list(range(1, live + 1))
        self._waiting: Waiting[_Sequence] = Waiting(queue)
        self._mail: Mail[Piece | Exception] = Mail()
        self._live: list[_Sequence] = []
        self._jobs: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._wake = threading.Condition()
        self._due, self._spoke = True, 0.0
        self._closed = False
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @staticmethod
    def load(
        path: str,
        *,
        hooks: Sequence[str],
        scaling: Mapping[str, Scaling] | None = None,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        live: int = 16,
        queue: int = 64,
        prefix_mb: int = 256,
    ) -> "TransformersEngine":
        """Load a folder or a hub id. Raises BadBundle if it is no causal language model with a fast tokenizer."""
        try:
            place = torch.device(_best_device() if device == "auto" else device)
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
            raise BadBundle(f"no device {device!r} here: {str(error).splitlines()[0]}; try auto or cpu") from error
        kind = (torch.float32 if place.type == "cpu" else "auto") if dtype == "auto" else getattr(torch, dtype, None)
        if kind not in ("auto", torch.float32, torch.bfloat16, torch.float16):
            raise BadBundle(f"no dtype {dtype!r}: auto, float32, bfloat16 or float16")
        try:
            config = AutoConfig.from_pretrained(path, revision=revision)
            model = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                revision=revision,
                dtype=kind,
                attn_implementation=_attention(config),
                use_safetensors=True,  # a pickle can run code
            )
            tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        except (OSError, ValueError) as error:
            raise BadBundle(f"cannot load a language model from {path!r}: {error}") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise BadBundle(f"the tokenizer of {path!r} is not a fast one; steering by role needs character offsets")
        return TransformersEngine(
            model.to(place),  # pyright: ignore[reportArgumentType] - transformers wraps `to`
            tokenizer,
            hooks=hooks,
            scaling=scaling,
            live=live,
            queue=queue,
            prefix_mb=prefix_mb,
        )

    def encode_chat(self, messages: list[Message]) -> EncodedChat:
        """Render a chat up to where the assistant speaks. Raises BadChat."""
        return encode_chat(self.tokenizer, messages)

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokenize raw text, its beginning-of-text token first; the template's markers are plain text here."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        bos = self.tokenizer.bos_token_id
        return (*([bos] if isinstance(bos, int) else []), *ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @property
    def load_now(self) -> tuple[int, int]:
        """How many sequences are running and how many wait."""
        return sum(not s.cancelled for s in self._live), sum(not s.cancelled for s in self._waiting)

    def before(self, tenant: str, name: str) -> int | None:
        """How many sequences are to begin before somebody's of this name, as it looks now; None if none of it waits."""
        with self._wake:
            waiting = [s.request for s in self._waiting if not s.cancelled]
        return next((i for i, r in enumerate(waiting) if (r.tenant, r.name) == (tenant, name)), None)

    async def generate(self, request: Generation) -> AsyncGenerator[Piece, None]:
        """Generate one sequence, piece by piece. Raises Overloaded if the queue is full, EngineFailed if it broke."""
        sequence = self._new_sequence(request)
        with self._wake:
            if self._closed:
                raise EngineFailed(self.failure or "the server is shutting down")
            if not self._waiting.add(request.tenant, sequence):
                raise Overloaded(retry_after=max(1.0, len(self._waiting) / 8))
            self._wake.notify()
        try:
            while True:
                item = await sequence.listener.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish_reason:
                    return
        finally:
            sequence.cancelled = True
            with self._wake:  # or who has left would keep others out until its turn comes
                self._waiting.drop(request.tenant, sequence)

    async def logprobs_unsteered(self, ids: Sequence[int], start: int) -> list[float]:
        """Log-probability of each of `ids[start:]` under the unsteered model."""

        def score() -> list[float]:
            tokens = torch.tensor([list(ids)], device=self.device)
            logits = self.model(input_ids=tokens, use_cache=False).logits[0, start - 1 : -1].float()
            return torch.log_softmax(logits, -1).gather(1, tokens[0, start:, None])[:, 0].tolist()

        return await self._in_thread(score)

    async def record(self, texts: Sequence[Sequence[int]], hook: str) -> list[Tensor]:
        """The unsteered residual stream of each text at a hook point, `[time, d_in]`; no layer after it runs."""
        found: dict[int, Tensor] = {}
        for group in _alike(texts):  # between two groups the others' replies go on

            def read(group: list[int] = group) -> Tensor:
                rows = [torch.tensor(texts[i]) for i in group]  # what is padded on the right is never looked back at
                return read_stream(self.model, pad_sequence(rows, batch_first=True).to(self.device), hook)

            streams = await self._in_thread(read)
            found |= {i: stream[: len(texts[i])] for i, stream in zip(group, streams, strict=True)}
        return [found[i] for i in range(len(texts))]

    async def study(self, work: Callable[[PreTrainedModel], T]) -> T:
        """Let a function look at the unsteered model itself, gradients and all, between two steps; others' replies wait."""

        def look() -> T:
            with torch.inference_mode(False):
                return work(self.model)

        return await self._in_thread(look)

    async def add_revision(self, revision: str, folders: Mapping[str, Path]) -> None:
        """Nothing: every request brings its compiled edits, and its revision salts what is kept of it."""

    async def close(self) -> None:
        """Stop; running generations end with an error."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join, 10)

    # What runs in the engine's thread.

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # not one request's fault: a GPU is gone, or a step broke what all share
            log.exception("the engine has ended")
            self.failure = (
                f"the engine has ended: {type(error).__name__}; nothing is answered until the server is begun again"
            )
        with self._wake:
            self._closed = True
        last_words = EngineFailed(self.failure or "the server is shutting down")
        for sequence in (*self._live, *self._waiting):
            self._mail.add(sequence.listener, last_words)
        self._mail.send()
        for _, future in self._jobs:
            if future.set_running_or_notify_cancel():
                future.set_exception(last_words)

    def _serve(self) -> None:
        taps = {hook: self._tap(table) for hook, table in self._tables.items()}
        with torch.inference_mode(), tap(self.model, taps):
            while (jobs := self._work()) is not None:
                torch.set_num_threads(self._cores)
                for work, future in jobs:
                    _settle(work, future)
                self._drop_cancelled()
                self._take_in()
                self._guarded(self._read, [s for s in self._live if s.reading])
                self._mail.send()
                self._guarded(self._speak, [s for s in self._live if not s.reading])
                self._mail.send()

    def _work(self) -> list[tuple[Callable[[], object], "Future[object]"]] | None:
        """Wait until there is something to do; None if it is to end."""
        with self._wake:
            while not (self._closed or self._waiting or self._live or self._jobs):
                self._wake.wait()
            return None if self._closed else [self._jobs.popleft() for _ in range(len(self._jobs))]

    def _tap(self, table: SteeringTable) -> Callable[[Tensor], Tensor]:
        def act(x: Tensor) -> Tensor:
            rows = self._steered_rows
            return x if rows is None else table.apply(x, rows)

        return act

    def _take_in(self) -> None:
        """Give waiting sequences a row, with what an earlier turn has computed of them."""
        while self._slots:
            with self._wake:
                sequence = self._waiting.take()
            if sequence is None:
                return
            if sequence.cancelled:
                continue
            sequence.slot, sequence.waited = self._slots.pop(), time.perf_counter() - sequence.came
            try:
                self._seat(sequence)
            except Exception:
                self._fail(sequence)
                self._free(sequence)

    def _seat(self, sequence: _Sequence) -> None:
        request = sequence.request
        for hook, edit in request.edits.items():
            if hook not in self._tables:
                raise SteeringError(f"no tap was proven at {hook!r}")
            self._tables[hook].set(sequence.slot, edit)
        known, kept = self._prefixes.find(sequence.salt, *sequence.marks(0, len(request.ids) - 1))
        sequence.row, sequence.fed, sequence.cached = len(self._live), known, known
        self._live.append(sequence)
        if kept is not None:
            self._cache.put(sequence.row, kept, known)

    def _guarded(self, step: Callable[[list[_Sequence]], None], sequences: list[_Sequence]) -> None:
        if not sequences:
            return
        try:
            step(sequences)
        except Exception:  # nobody can tell whose fault it was, so all who took part end
            for sequence in sequences:
                self._fail(sequence)
                self._leave(sequence, keep=False)

    def _read(self, sequences: list[_Sequence]) -> None:
        """Compute a chunk of the prompts that came first."""
        torch.set_num_threads(self._cores)
        longest = min(CHUNK, max(len(s.request.ids) - s.fed for s in sequences[:1]))
        chosen = sequences[: max(1, CHUNK // longest)]
        spans = [(s.fed, min(len(s.request.ids), s.fed + longest)) for s in chosen]
        ids, steered = zip(*(s.marks(*span) for s, span in zip(chosen, spans, strict=True)), strict=True)
        at = torch.full((len(chosen), max(map(len, ids))), -1)
        tokens, rows = torch.zeros_like(at), torch.zeros_like(at)
        for i, (s, (start, end)) in enumerate(zip(chosen, spans, strict=True)):
            n = end - start
            at[i, :n], tokens[i, :n] = torch.arange(start, end), torch.tensor(ids[i])
            rows[i, :n] = torch.tensor(steered[i]) * s.slot
        ends = torch.tensor([e - a - 1 for a, e in spans])
        wanted = ends.unique()
        view = torch.tensor([s.row for s in chosen], device=self.device)
        logits = self._forward(view, tokens, at, rows, wanted)
        for s, (_, end) in zip(chosen, spans, strict=True):
            s.fed = end
        done = [i for i, s in enumerate(chosen) if not s.reading]
        if done:
            last = torch.stack([logits[i, int((wanted == ends[i]).nonzero())] for i in done])
            self._say([chosen[i] for i in done], last)

    def _speak(self, sequences: list[_Sequence]) -> None:
        """Give everybody who speaks one more token; those who still read ride along and write nowhere."""
        torch.set_num_threads(self._few)
        at = torch.full((len(self._live), 1), -1)
        tokens, rows = torch.zeros_like(at), torch.zeros_like(at)
        for s in sequences:
            at[s.row], tokens[s.row] = s.fed, s.spoken[-1]
            rows[s.row] = s.slot if s.request.steer_new and s.request.edits else 0
        logits = self._forward(slice(0, len(self._live)), tokens, at, rows, torch.tensor([0]))
        for s in sequences:
            s.fed += 1
        self._say(sequences, logits[[s.row for s in sequences], 0])

    def _forward(self, view: slice | Tensor, tokens: Tensor, at: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        """One pass over `tokens [batch, time]` at positions `at`; logits at the `wanted` times."""
        seen, steered = int(at.max()) + 1, bool(rows.any())
        tokens, at = tokens.to(self.device), at.to(self.device)
        self._cache.begin(view, at, seen)
        self._steered_rows = rows.to(self.device) if steered else None
        try:
            return self.model(
                input_ids=tokens,
                position_ids=at.clamp(min=0),
                attention_mask=self._masks.of(at, seen),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=wanted.to(self.device),
            ).logits.float()
        finally:
            self._steered_rows = None

    def _say(self, sequences: list[_Sequence], logits: Tensor) -> None:
        """Draw a token for each and tell it; whoever is done leaves."""
        sound = torch.isfinite(logits).all(-1).tolist()
        for s, fine in zip(sequences, sound, strict=True):
            if not fine:
                self._fail(s, "its numbers overflowed")
                self._leave(s, keep=False)
        if not all(sound):
            logits = logits[sound]
            sequences = [s for s, fine in zip(sequences, sound, strict=True) if fine]
        self._due = (now := time.monotonic()) - self._spoke >= SPEAK_EVERY
        self._spoke = now if self._due else self._spoke
        for s in sequences:
            s.draw.blocked = self._blocked(s)
        for s, token, row in zip(sequences, next_tokens(logits, [s.draw for s in sequences]), logits, strict=True):
            s.spoken.append(token)
            s.draw.said(token)
            piece = self._piece(s, token, row)
            if piece.text or piece.finish_reason:
                self._mail.add(s.listener, piece)
            if piece.finish_reason:
                self._leave(s)

    def _blocked(self, sequence: _Sequence) -> list[int]:
        sampling, young = sequence.request.sampling, len(sequence.spoken) < sequence.request.sampling.min_tokens
        if not (young or sampling.ignore_eos):
            return []
        return [*self._eos, *(sampling.stop_token_ids if young else ())]

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in self._live if s.cancelled]:
            self._leave(sequence)

    def _leave(self, sequence: _Sequence, *, keep: bool = True) -> None:
        """Give a sequence's places back and remember what was computed."""
        if keep:
            self._remember(sequence)
        else:
            self._cache.wipe(sequence.row)
        last = self._live.pop()
        if last is not sequence:
            self._cache.move(last.row, sequence.row, last.fed)
            self._live[sequence.row], last.row = last, sequence.row
        self._free(sequence)

    def _remember(self, sequence: _Sequence) -> None:
        if sequence.fed > sequence.cached and self._prefixes.wants(self._cache.bytes_of(sequence.fed)):
            kept = self._cache.take(sequence.row, sequence.fed)
            self._prefixes.add(sequence.salt, *sequence.marks(0, sequence.fed), kept)

    def _free(self, sequence: _Sequence) -> None:
        for hook in sequence.request.edits:
            if hook in self._tables:
                self._tables[hook].clear(sequence.slot)
        self._slots.append(sequence.slot)

    def _fail(self, sequence: _Sequence, why: str = "") -> None:
        log.error(
            "generation failed",
            fingerprint=sequence.request.fingerprint,
            prompt_tokens=len(sequence.request.ids),
            why=why,
            exc_info=not why,
        )
        self._mail.add(sequence.listener, EngineFailed("the engine failed on this request; it was not retried"))

    def _piece(self, sequence: _Sequence, token: int, logits: Tensor) -> Piece:
        sampling, count = sequence.request.sampling, len(sequence.spoken)
        if (token in self._eos and not sampling.ignore_eos) or token in sampling.stop_token_ids:
            return self._send(sequence, sequence.text.flush(), "stop")
        if sampling.logprobs is not None:
            sequence.unsent.append(self._logprob(token, logits, sampling.logprobs))
        text, stopped = sequence.text.push(token)
        if stopped:
            return self._send(sequence, text, "stop")
        if count >= sampling.max_tokens or len(sequence.request.ids) + count >= self.max_model_len:
            return self._send(sequence, text + sequence.text.flush(), "length")
        if (text or sequence.unsaid) and (self._due or not sequence.sent):
            return self._send(sequence, text)
        sequence.unsaid += text
        return Piece("", count)

    def _send(self, sequence: _Sequence, text: str, reason: FinishReason | None = None) -> Piece:
        text, sequence.unsaid = sequence.unsaid + text, ""
        ids, logprobs = tuple(sequence.spoken[sequence.sent :]), tuple(sequence.unsent)
        sequence.sent, sequence.unsent = len(sequence.spoken), []
        return Piece(text, len(sequence.spoken), ids, logprobs, reason, sequence.cached, sequence.waited)

    def _logprob(self, token: int, logits: Tensor, alternatives: int) -> TokenLogprob:
        logprobs = torch.log_softmax(logits, -1)
        top = logprobs.topk(alternatives) if alternatives else None
        others = zip(top.indices.tolist(), top.values.tolist(), strict=True) if top else ()
        return spelled(
            self.tokenizer, token, float(logprobs[token]), tuple(spelled(self.tokenizer, i, v) for i, v in others)
        )

    def _new_sequence(self, request: Generation) -> _Sequence:
        text = TextStream(
            self.tokenizer, request.sampling.stop, include_stop=request.sampling.include_stop_str_in_output
        )
        draw = Draw.begin(request.sampling, request.ids, self.vocab_size, self.device)
        return _Sequence(request, Listener(), text, draw)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        future: Future[object] = Future()
        with self._wake:
            if self._closed:
                raise EngineFailed(self.failure or "the server is shutting down")
            self._jobs.append((work, future))
            self._wake.notify()
        return await asyncio.wrap_future(future)  # type: ignore[return-value]


def prove_tap(model: PreTrainedModel, hook: str) -> None:
    """Push the stream by a known vector and read it back. Raises BadBundle if it did not move by exactly that."""
    ids = torch.tensor([[1, 2, 3]], device=model.device) % model.config.get_text_config().vocab_size
    d_in = model.config.get_text_config().hidden_size
    probe = torch.linspace(-1, 1, d_in, device=model.device)
    none, empty = torch.zeros(0, d_in, device=model.device), torch.zeros(0, device=model.device)
    edit = ResidualEdit(push=probe, w=none, b=empty, threshold=empty, d=none, gate=empty)
    before = read_stream(model, ids, hook)
    with steer(model, {hook: edit}), record(model, [hook]) as seen, torch.no_grad():
        model(input_ids=ids, use_cache=False)
    if not torch.equal(seen[hook], before + probe.to(before.dtype)) or len(decoder_layers(model)) == 0:
        raise BadBundle(
            f"the tap at {hook!r} does not move the residual stream; refusing to serve unsteered replies as steered"
        )


def _alike(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The texts' numbers in groups of similar length, each of at most RECORDED tokens with its padding."""
    groups: list[list[int]] = []
    for i in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        if not groups or (len(groups[-1]) + 1) * len(texts[groups[-1][0]]) > RECORDED:
            groups.append([])
        groups[-1].append(i)
    return groups


def _settle(work: Callable[[], object], future: Future[object]) -> None:
    if not future.set_running_or_notify_cancel():  # whoever asked is gone; an answer would raise in this thread
        return
    try:
        future.set_result(work())
    except SteeringError as error:  # whoever asked can mend it
        future.set_exception(error)
    except Exception as error:
        log.exception("engine job failed")
        future.set_exception(EngineFailed(f"the engine failed: {type(error).__name__}"))


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if isinstance(i, int))


def _attention(config: PretrainedConfig) -> str | None:
    """Gemma 2 caps its attention's scores, which torch's fused attention leaves out without a word."""
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def _threads(model: PreTrainedModel) -> int:
    """How many threads give a token: a core is left to the event loop, whose every word would else stop them all."""
    return max(1, min(torch.get_num_threads() - 1, round(model.num_parameters() / THREAD_WORTH)))


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
