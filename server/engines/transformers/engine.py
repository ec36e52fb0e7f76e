"""Embedded engine: a transformers model on CPU, CUDA or Apple silicon.

One thread owns the model, admits waiting sequences, and runs all of them step by step (`batch.py`);
other calls on the model run between two steps. Steering uses Python hooks, so the model is never
compiled; a self-test at start proves that they work.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import structlog
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from server.engines.base import EngineFailed, Generation, Overloaded, TextPiece
from server.engines.chat_tokenizer import ChatTokenizer
from server.engines.transformers.batch import Batch
from server.engines.transformers.fair_queue import FairQueue
from server.engines.transformers.llama_pass import LlamaPass
from server.engines.transformers.loading import Weights, eos_ids, load
from server.engines.transformers.mailbox import Mailbox
from server.engines.transformers.self_test import self_test_cache, self_test_tap
from server.engines.transformers.sequence import Sequence_, Vocabulary
from server.engines.transformers.weights import Packed
from steering.errors import SteeringError
from steering.model.hooks import read_stream
from steering.sae import Scaling

log = structlog.get_logger(__name__)
T = TypeVar("T")
RECORDED = 2048
"""Number of tokens recorded in one pass."""


class TransformersEngine(ChatTokenizer):
    """Serves one model. `close` ends its thread."""

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
        packed_as: Packed | None = None,
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        llama = LlamaPass(model, packed_as) if LlamaPass.supports(model) else None
        self_test_cache(model, llama)
        config = model.config.get_text_config()
        self.max_model_len, self.vocab_size = int(config.max_position_embeddings), int(config.vocab_size)
        self.device, self.width = model.device, int(config.hidden_size)
        for hook in hooks:
            self_test_tap(model, hook)
        self._vocabulary = Vocabulary(tokenizer, self.vocab_size, eos_ids(model, tokenizer), self.max_model_len)
        self._mail: Mailbox[TextPiece | Exception] = Mailbox()
        self._batch = Batch(
            model, self._mail, hooks=hooks, scaling=scaling or {}, places=live, prefix_mb=prefix_mb, llama=llama
        )
        self._waiting: FairQueue[Sequence_] = FairQueue(queue)
        self._jobs: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._wake = threading.Condition()
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
        weights: Weights = "auto",
        live: int = 16,
        queue: int = 64,
        prefix_mb: int = 256,
    ) -> "TransformersEngine":
        """Load a folder or a hub id. Raises BadBundle if it is not a causal language model with a fast tokenizer, or if
        it cannot have these weights.
        """
        model, tokenizer, packed_as = load(path, revision=revision, device=device, dtype=dtype, weights=weights)
        return TransformersEngine(
            model,
            tokenizer,
            hooks=hooks,
            scaling=scaling,
            live=live,
            queue=queue,
            prefix_mb=prefix_mb,
            packed_as=packed_as,
        )

    @property
    def occupancy(self) -> tuple[int, int]:
        """Number of running and of waiting sequences."""
        return sum(not s.cancelled for s in self._batch.running), sum(not s.cancelled for s in self._waiting)

    def queue_position(self, tenant: str, name: str) -> int | None:
        """Number of sequences ahead of those with this name, at present; None if none of them waits."""
        with self._wake:
            waiting = [s.request for s in self._waiting if not s.cancelled]
        return next((i for i, r in enumerate(waiting) if (r.tenant, r.name) == (tenant, name)), None)

    async def generate(self, request: Generation) -> AsyncGenerator[TextPiece, None]:
        """Generate one sequence, piece by piece. Raises Overloaded if the queue is full, EngineFailed if it failed."""
        self.check_ids(request.ids)
        sequence = Sequence_.begin(request, self._vocabulary, self.device)
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
            with self._wake:  # a cancelled sequence would keep its place in the queue until its turn
                self._waiting.drop(request.tenant, sequence)

    async def logprobs_unsteered(self, ids: Sequence[int], start: int) -> list[float]:
        """Log-probability of each of `ids[start:]` under the unsteered model."""
        self.check_ids(ids)

        def score() -> list[float]:
            tokens = torch.tensor([list(ids)], device=self.device)
            logits = self.model(input_ids=tokens, use_cache=False).logits[0, start - 1 : -1].float()
            return torch.log_softmax(logits, -1).gather(1, tokens[0, start:, None])[:, 0].tolist()

        return await self._in_thread(score)

    async def record(self, texts: Sequence[Sequence[int]], hook: str) -> list[Tensor]:
        """Unsteered residual stream of each text at a hook point, `[time, d_in]`; later layers do not run."""
        for ids in texts:
            self.check_ids(ids)
        found: dict[int, Tensor] = {}
        for group in _group_by_length(texts):  # other replies proceed between two groups

            def read(group: list[int] = group) -> Tensor:
                rows = [torch.tensor(texts[i]) for i in group]  # causal attention never reads the padding on the right
                return read_stream(self.model, pad_sequence(rows, batch_first=True).to(self.device), hook)

            streams = await self._in_thread(read)
            found |= {i: stream[: len(texts[i])] for i, stream in zip(group, streams, strict=True)}
        return [found[i] for i in range(len(texts))]

    async def with_model(self, work: Callable[[PreTrainedModel], T]) -> T:
        """Call a function with the unsteered model, gradients included, between two steps; running replies wait."""

        def use() -> T:
            with torch.inference_mode(False):
                return work(self.model)

        return await self._in_thread(use)

    async def add_revision(self, revision: str, folders: Mapping[str, Path]) -> None:
        """No-op: every request brings its compiled edits, and its revision is part of the cache salt."""

    async def close(self) -> None:
        """Stop; running generations end with an error."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join, 10)

    # Code that runs in the engine's thread.

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # not one request's error: the GPU is gone, or a step broke shared state
            log.exception("the engine failed")
            self.failure = (
                f"the engine has ended: {type(error).__name__}; no request is served until the server is restarted"
            )
        with self._wake:
            self._closed = True
        last_words = EngineFailed(self.failure or "the server is shutting down")
        for sequence in (*self._batch.running, *self._waiting):
            self._mail.add(sequence.listener, last_words)
        self._mail.send()
        for _, future in self._jobs:
            if future.set_running_or_notify_cancel():
                future.set_exception(last_words)

    def _serve(self) -> None:
        with torch.inference_mode(), self._batch.tapped():
            while (jobs := self._next_work()) is not None:
                torch.set_num_threads(self._batch.cores)
                for work, future in jobs:
                    _resolve_future(work, future)
                self._batch.drop_cancelled()
                self._admit_waiting()
                self._batch.prefill()
                self._mail.send()
                self._batch.decode()
                self._mail.send()

    def _next_work(self) -> list[tuple[Callable[[], object], "Future[object]"]] | None:
        """Wait until there is work; None to end."""
        with self._wake:
            while not (self._closed or self._waiting or self._batch.running or self._jobs):
                self._wake.wait()
            return None if self._closed else [self._jobs.popleft() for _ in range(len(self._jobs))]

    def _admit_waiting(self) -> None:
        """Admit waiting sequences to free slots."""
        while not self._batch.full:
            with self._wake:
                sequence = self._waiting.take()
            if sequence is None:
                return
            if not sequence.cancelled:
                self._batch.admit(sequence)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        future: Future[object] = Future()
        with self._wake:
            if self._closed:
                raise EngineFailed(self.failure or "the server is shutting down")
            self._jobs.append((work, future))
            self._wake.notify()
        return await asyncio.wrap_future(future)  # type: ignore[return-value]


def _group_by_length(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of the texts in groups of similar length, each of at most RECORDED tokens with padding."""
    groups: list[list[int]] = []
    for i in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        if not groups or (len(groups[-1]) + 1) * len(texts[groups[-1][0]]) > RECORDED:
            groups.append([])
        groups[-1].append(i)
    return groups


def _resolve_future(work: Callable[[], object], future: Future[object]) -> None:
    if not future.set_running_or_notify_cancel():  # cancelled: setting a result would raise here
        return
    try:
        future.set_result(work())
    except SteeringError as error:  # an error that the caller can fix
        future.set_exception(error)
    except Exception as error:
        log.exception("engine job failed")
        future.set_exception(EngineFailed(f"the engine failed: {type(error).__name__}"))
