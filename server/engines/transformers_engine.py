"""The embedded engine: a transformers model on CPU, CUDA or Apple. Knows tensors, threads and text.

One thread owns the model. It gives each live sequence one step in turn, so nobody waits for another's
reply to end; each has its own key-value cache and generator, so nobody's numbers depend on another's.
Python hooks steer, so the model is never compiled; a probe at start proves that they do.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

from server.engines.engine import EngineFailed, FinishReason, Generation, Overloaded, Piece, TokenLogprob
from server.engines.sampler import next_token
from server.engines.text import TextStream
from steering.chat import EncodedChat, Message, encode_chat
from steering.edits import ResidualEdit
from steering.errors import BadBundle
from steering.hooks import decoder_layers, read_stream, record, steer

log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(eq=False)
class _Sequence:
    """A generation in flight: owned by the engine's thread, but for `cancelled` and the outbox."""

    request: Generation
    deliver: Callable[[Piece | Exception], None]
    text: TextStream
    generator: torch.Generator
    cache: DynamicCache = field(default_factory=DynamicCache)
    spoken: list[int] = field(default_factory=list)
    sent: int = 0
    """How many of the spoken tokens earlier pieces carried."""
    unsent: list[TokenLogprob] = field(default_factory=list)
    cancelled: bool = False


class TransformersEngine:
    """Serves one model. Close it to end its thread."""

    name = "transformers"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        hooks: Sequence[str],
        live: int = 16,
        queue: int = 64,
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.max_model_len = int(model.config.get_text_config().max_position_embeddings)
        self.vocab_size = int(model.config.get_text_config().vocab_size)
        self.device = model.device
        self.width = int(model.config.get_text_config().hidden_size)
        self._eos = _eos_ids(model, tokenizer)
        self._live_limit, self._queue_limit = live, queue
        for hook in hooks:
            prove_tap(model, hook)
        self._waiting: deque[_Sequence] = deque()
        self._live: list[_Sequence] = []
        self._jobs: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @staticmethod
    def load(
        path: str,
        *,
        hooks: Sequence[str],
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        live: int = 16,
        queue: int = 64,
    ) -> "TransformersEngine":
        """Load a folder or a hub id. Raises BadBundle if it is no causal language model with a fast tokenizer."""
        place = torch.device(_best_device() if device == "auto" else device)
        kind = (torch.float32 if place.type == "cpu" else "auto") if dtype == "auto" else getattr(torch, dtype)
        try:
            model = AutoModelForCausalLM.from_pretrained(path, revision=revision, dtype=kind)
            tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        except (OSError, ValueError) as error:
            raise BadBundle(f"cannot load a language model from {path!r}: {error}") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise BadBundle(f"the tokenizer of {path!r} is not a fast one; steering by role needs character offsets")
        return TransformersEngine(
            model.to(place),  # pyright: ignore[reportArgumentType] - transformers wraps `to`
            tokenizer,
            hooks=hooks,
            live=live,
            queue=queue,
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

    async def generate(self, request: Generation) -> AsyncIterator[Piece]:
        """Generate one sequence, piece by piece. Raises Overloaded if the queue is full, EngineFailed if it broke."""
        loop = asyncio.get_running_loop()
        outbox: asyncio.Queue[Piece | Exception] = asyncio.Queue()

        def deliver(item: Piece | Exception) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(outbox.put_nowait, item)

        sequence = self._new_sequence(request, deliver)
        with self._wake:
            if self._closed:
                raise EngineFailed("the server is shutting down")
            if len(self._waiting) >= self._queue_limit:
                raise Overloaded(retry_after=max(1.0, len(self._waiting) / 8))
            self._waiting.append(sequence)
            self._wake.notify()
        try:
            while True:
                item = await outbox.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish_reason:
                    return
        finally:
            sequence.cancelled = True

    async def logprobs_unsteered(self, ids: Sequence[int], start: int) -> list[float]:
        """Log-probability of each of `ids[start:]` under the unsteered model."""

        def score() -> list[float]:
            tokens = torch.tensor([list(ids)], device=self.device)
            logits = self.model(input_ids=tokens, use_cache=False).logits[0, start - 1 : -1].float()
            return torch.log_softmax(logits, -1).gather(1, tokens[0, start:, None])[:, 0].tolist()

        return await self._in_thread(score)

    async def record(self, ids: Sequence[int], hook: str) -> Tensor:
        """The unsteered residual stream of `ids` at a hook point, `[time, d_in]`."""
        return await self._in_thread(
            lambda: read_stream(self.model, torch.tensor([list(ids)], device=self.device), hook)[0]
        )

    async def close(self) -> None:
        """Stop; running generations end with an error."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join, 10)

    # What runs in the engine's thread.

    def _run(self) -> None:
        with torch.inference_mode():
            while True:
                with self._wake:
                    while not (self._closed or self._waiting or self._live or self._jobs):
                        self._wake.wait()
                    if self._closed:
                        break
                    while self._waiting and len(self._live) < self._live_limit:
                        self._live.append(self._waiting.popleft())
                    jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
                for work, future in jobs:
                    _settle(work, future)
                self._live = [s for s in self._live if self._advance(s)]
        for sequence in (*self._live, *self._waiting):
            sequence.deliver(EngineFailed("the server is shutting down"))
        for _, future in self._jobs:
            if future.set_running_or_notify_cancel():
                future.set_exception(EngineFailed("the server is shutting down"))

    def _advance(self, sequence: _Sequence) -> bool:
        """Take one step; return whether the sequence goes on."""
        if sequence.cancelled:
            return False
        try:
            piece = self._step(sequence)
        except Exception:
            log.exception(
                "generation failed", fingerprint=sequence.request.fingerprint, prompt_tokens=len(sequence.request.ids)
            )
            sequence.deliver(EngineFailed("the engine failed on this request; it was not retried"))
            return False
        if piece.text or piece.finish_reason:
            sequence.deliver(piece)
        return piece.finish_reason is None

    def _step(self, sequence: _Sequence) -> Piece:
        logits = raw = self._forward(sequence)
        request, sampling = sequence.request, sequence.request.sampling
        if len(sequence.spoken) < sampling.min_tokens or sampling.ignore_eos:
            blocked = [*self._eos, *(sampling.stop_token_ids if len(sequence.spoken) < sampling.min_tokens else ())]
            logits = logits.index_fill(0, torch.tensor(blocked, device=logits.device), -torch.inf)
        spoken = torch.tensor(sequence.spoken, dtype=torch.long, device=logits.device)
        seen = torch.cat([torch.tensor(request.ids, device=logits.device), spoken])
        token = next_token(logits, seen, spoken, sampling, sequence.generator)
        sequence.spoken.append(token)
        return self._piece(sequence, token, raw)

    def _forward(self, sequence: _Sequence) -> Tensor:
        request = sequence.request
        ids, steered = (
            ([sequence.spoken[-1]], [request.steer_new]) if sequence.spoken else (request.ids, request.steered)
        )
        where = torch.tensor([list(steered)], device=self.device)
        tokens = torch.tensor([list(ids)], device=self.device)
        with steer(self.model, request.edits, where=where):
            output = self.model(input_ids=tokens, past_key_values=sequence.cache, use_cache=True, logits_to_keep=1)
        return output.logits[0, -1].float()

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
        if not text:
            return Piece("", count)
        return self._send(sequence, text)

    def _send(self, sequence: _Sequence, text: str, reason: FinishReason | None = None) -> Piece:
        ids, logprobs = tuple(sequence.spoken[sequence.sent :]), tuple(sequence.unsent)
        sequence.sent, sequence.unsent = len(sequence.spoken), []
        return Piece(text, len(sequence.spoken), ids, logprobs, reason)

    def _logprob(self, token: int, logits: Tensor, alternatives: int) -> TokenLogprob:
        logprobs = torch.log_softmax(logits, -1)
        top = logprobs.topk(alternatives) if alternatives else None
        others = zip(top.indices.tolist(), top.values.tolist(), strict=True) if top else ()
        return self._token(token, float(logprobs[token]), tuple(self._token(i, v) for i, v in others))

    def _token(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        text = str(self.tokenizer.decode([token]))
        return TokenLogprob(text, token, max(logprob, -9999.0), tuple(text.encode()), top)

    def _new_sequence(self, request: Generation, deliver: Callable[[Piece | Exception], None]) -> _Sequence:
        generator = torch.Generator(device=self.device)
        if request.sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(request.sampling.seed)
        text = TextStream(
            self.tokenizer, request.sampling.stop, include_stop=request.sampling.include_stop_str_in_output
        )
        return _Sequence(request, deliver, text, generator)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        future: Future[object] = Future()
        with self._wake:
            if self._closed:
                raise EngineFailed("the server is shutting down")
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


def _settle(work: Callable[[], object], future: Future[object]) -> None:
    if not future.set_running_or_notify_cancel():  # whoever asked is gone; an answer would raise in this thread
        return
    try:
        future.set_result(work())
    except Exception as error:
        log.exception("engine job failed")
        future.set_exception(EngineFailed(f"the engine failed: {type(error).__name__}"))


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if isinstance(i, int))


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
