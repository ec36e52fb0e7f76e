"""vLLM engine: an unmodified vLLM with the steering hook as a plugin.

A spec is sent as ids and numbers; the workers hold the SAEs. Only features that the SAE no longer
has are sent as vectors. `cache_salt` covers what keys and values depend on besides the tokens
(tenant, revision, spec), so vLLM's prefix cache is shared between turns of a conversation only.
"""

import asyncio
import itertools
import math
import os
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from server.engines.base import EngineFailed, Generation, Overloaded, Sampling, ScoredToken, TextPiece
from server.engines.chat_tokenizer import ChatTokenizer
from server.engines.detokenizer import TextStream
from server.engines.token_kinds import token_kinds
from server.engines.token_text import TokenSpeller
from server.engines.vllm.plugin import KEY, REPORT
from server.engines.vllm.sampling import sampling_params, scored_prompt
from server.engines.vllm.self_test import moved_as_asked, probe_for, probe_ids
from steering.edits import ResolvedIntervention
from steering.errors import BadBundle, SteeringError
from steering.model.chat_template import special_ids
from steering.sae import SAE

log = structlog.get_logger(__name__)
T = TypeVar("T")
MISSING = "vLLM is not installed here; `pip install 'tiller[vllm]'` on a machine with a GPU, or see docs/guides/vllm.md for a CPU"
PLUGIN = "3"
"""Part of vLLM's compile cache key: a graph compiled without the hook must not be reused."""
GATES = 512
"""Maximum number of features that read the stream, over all running requests; with captured graphs
all of them are computed for every token. Requests beyond it wait."""


class VLLMEngine(ChatTokenizer):
    """Serves one model through vLLM's `AsyncLLM`. Open it with `load`, which tests the hook."""

    name = "vllm"

    def __init__(self, llm: Any, tokenizer: PreTrainedTokenizerFast, *, revision: str, queue: int) -> None:  # noqa: ANN401
        self.llm: Any = llm
        self.tokenizer, self.revision = tokenizer, revision
        config = llm.vllm_config
        self.max_model_len = int(config.model_config.max_model_len)
        self.vocab_size, self.width = (
            int(config.model_config.get_vocab_size()),
            int(config.model_config.get_hidden_size()),
        )
        self.device = torch.device("cpu")  # for inputs and outputs; vLLM has its own
        self._seats, self._queue = int(config.scheduler_config.max_num_seqs), queue
        self._numbers, self._open, self._closed = itertools.count(), 0, False
        self._gates, self._room = GATES, asyncio.Condition()
        self._revisions, self._users = [revision], Counter[str]()
        self._silent: dict[str, Generation] = {}

    @staticmethod
    async def load(
        path: str,
        *,
        folders: Mapping[str, Path],
        revision: str,
        queue: int = 64,
        reads: Sequence[str] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> "VLLMEngine":
        """Start vLLM with the SAEs in `folders`, by hook point; the stream can be recorded at the
        hook points in `reads` as well.

        Raises BadBundle if the self-test fails.
        """
        tokenizer = AutoTokenizer.from_pretrained(path)
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise BadBundle(f"the tokenizer of {path!r} is not a fast one; steering by role needs character offsets")
        asked = {"revision": revision, "folders": {h: str(f) for h, f in folders.items()}, "reads": [*reads]}
        asked["special"] = sorted(special_ids(tokenizer))
        llm = await asyncio.to_thread(_start, path, asked, dict(arguments or {}))
        engine = VLLMEngine(llm, tokenizer, revision=revision, queue=queue)
        try:
            for hook, folder in folders.items():
                await engine._self_test(hook, SAE.load(folder))
        except BaseException:
            await engine.close()
            raise
        return engine

    @property
    def failure(self) -> str | None:
        """Why the engine has failed for good; None while it works."""
        gone = not self._closed and self.llm.errored
        return "vLLM's own process has ended; no request is served until the server is restarted" if gone else None

    @property
    def occupancy(self) -> tuple[int, int]:
        """Number of running and of waiting sequences."""
        return min(self._open, self._seats), max(0, self._open - self._seats)

    def queue_position(self, tenant: str, name: str) -> int | None:
        """Number of earlier sequences without output, counted from those with this name: vLLM does
        not expose its queue."""
        waiting = self._silent.values()
        return next((i for i, r in enumerate(waiting) if (r.tenant, r.name) == (tenant, name)), None)

    async def generate(self, request: Generation) -> AsyncGenerator[TextPiece, None]:
        """Generate one sequence, piece by piece. Raises Overloaded if the queue is full, EngineFailed if it failed."""
        self.check_ids(request.ids)
        if self._closed:
            raise EngineFailed("the server is shutting down")
        if self._open >= self._seats + self._queue:
            raise Overloaded(retry_after=max(1.0, self._queue / 8))
        if request.interventions and request.revision not in self._revisions:
            raise EngineFailed(f"the SAE's revision {request.revision!r} is no longer served; try again")
        name = f"r{next(self._numbers)}"
        asked = _worker_arguments(request, name)
        self._open += 1
        self._silent[name] = request
        try:
            async with self._using(request):
                sampling = sampling_params(request.sampling, asked, self._stop_ids(request.sampling))
                stream = self._stream(request.ids, sampling, _salt(request), name)
                async with aclosing(stream) as outputs:
                    async for piece in self._pieces(outputs, request):
                        self._silent.pop(name, None)
                        if piece.finish_reason and asked:
                            await self._refuse_unsteered(name)
                        yield piece
        finally:
            self._silent.pop(name, None)
            self._open -= 1

    @asynccontextmanager
    async def _using(self, request: Generation) -> AsyncIterator[None]:
        """Reserve what a request needs in the workers: its gates, and its SAE revision."""
        gates = max((sum(i.gate != 0 for i in some) for some in request.interventions.values()), default=0)
        async with self._room:
            await self._room.wait_for(lambda: self._gates >= gates)
            self._gates -= gates
        self._users[request.revision] += 1
        try:
            yield
        finally:
            self._users[request.revision] -= 1
            self._gates += gates
            async with self._room:
                self._room.notify_all()
            await self._drop_unused()

    async def logprobs_unsteered(self, ids: Sequence[int], start: int) -> list[float]:
        """Log-probability of each of `ids[start:]` under the unsteered model."""
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

        self.check_ids(ids)
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        found: list[Any] = []
        async with aclosing(self._stream(ids, params, "", f"p{next(self._numbers)}")) as outputs:
            async for output in outputs:
                found = output.prompt_logprobs or found
        return [float(found[i][ids[i]].logprob) for i in range(start, len(ids))]

    async def record(self, texts: Sequence[Sequence[int]], hook: str) -> list[Tensor]:
        """Unsteered residual stream of each text at a hook point, `[time, d_in]`."""
        for ids in texts:
            self.check_ids(ids)
        return list(await asyncio.gather(*(self._take_recorded(ids, hook, {}) for ids in texts)))

    async def with_model(self, work: Callable[[PreTrainedModel], T]) -> T:  # noqa: ARG002
        """Raises SteeringError: the model is in vLLM's workers, without gradients."""
        raise SteeringError(
            "this needs the model's gradients, which vLLM's workers do not keep; use a server that runs "
            "`--engine transformers`, or use the command line"
        )

    async def add_revision(self, revision: str, folders: Mapping[str, Path]) -> None:
        """Load another revision's SAEs in the workers; running requests finish on their own. Raises
        BadBundle if loading fails."""
        if revision in self._revisions:  # after a rollback it may still be loaded
            self._revisions.remove(revision)
        else:
            asked = {h: str(f) for h, f in folders.items()}
            try:
                await self.llm.collective_rpc("tiller_add_revision", args=(revision, asked))
            except Exception as error:
                raise BadBundle(f"vLLM's workers cannot load revision {revision!r}: {error}") from error
        self._revisions.append(revision)
        self.revision = revision
        await self._drop_unused()

    async def _drop_unused(self) -> None:
        """Unload revisions that no running request uses; the previous one stays for requests in preparation."""
        while unused := [r for r in self._revisions[:-2] if not self._users[r]]:
            self._revisions.remove(revision := unused[0])
            await self.llm.collective_rpc("tiller_drop_revision", args=(revision,))

    async def close(self) -> None:
        """Stop; running generations end with an error."""
        self._closed = True
        await asyncio.to_thread(self.llm.shutdown)
        self.llm = None  # otherwise it would be finalized after its dependencies

    async def _stream(self, ids: Sequence[int], params: Any, salt: str, name: str) -> AsyncGenerator[Any, None]:  # noqa: ANN401
        prompt = {"prompt_token_ids": list(ids)} | ({"cache_salt": salt} if salt else {})
        try:
            async for output in self.llm.generate(prompt, params, name):
                yield output
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            raise EngineFailed("the engine failed on this request; it was not retried") from error

    def _stop_ids(self, sampling: Sampling) -> list[int]:
        """Ids that end a reply, with those of stop strings that are special tokens, which vLLM's text leaves out."""
        special = token_kinds(self.tokenizer).special
        return [*sampling.stop_token_ids, *(i for i, name in special.items() if name in sampling.stop)]

    async def _pieces(self, outputs: AsyncIterator[Any], request: Generation) -> AsyncIterator[TextPiece]:
        tokens, cached, scored = 0, 0, tuple[ScoredToken, ...]()
        most = request.sampling.prompt_logprobs
        stream = TextStream(self.tokenizer, request.ids)
        speller = TokenSpeller(self.tokenizer, stream)
        async for output in outputs:
            one = output.outputs[0]
            ids = list(one.token_ids)
            tokens += len(ids)
            cached = output.num_cached_tokens or cached
            reason = one.finish_reason
            if most is not None and output.prompt_logprobs and not tokens - len(ids):
                scored = scored_prompt(request.ids, output.prompt_logprobs, most)
            if reason not in (None, "stop", "length"):
                raise EngineFailed(f"the engine ended this reply: {reason}")
            if not request.sampling.max_tokens:
                yield TextPiece("", 0, finish_reason="length", cached=cached, prompt=scored)
                return
            for token, row in zip(ids, one.logprobs or [], strict=False):
                ranked = sorted(((i, float(v.logprob)) for i, v in row.items()), key=lambda item: -item[1])
                speller.add(token, float(row[token].logprob), ranked[: request.sampling.logprobs or 0])
                stream.push(token)
            if reason:
                stream.flush()
            logprobs = speller.take()
            yield TextPiece(one.text, tokens, tuple(ids), logprobs, reason, cached, prompt=scored)
            scored = ()

    async def _refuse_unsteered(self, name: str) -> None:
        problems = await self.llm.collective_rpc("tiller_failure", args=(name,))
        if any(problems):
            raise EngineFailed("this reply could not be steered as asked; it was not retried")

    async def _take_recorded(self, ids: Sequence[int], hook: str, more: dict[str, Any]) -> Tensor:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

        name = f"x{next(self._numbers)}"
        params = SamplingParams(
            max_tokens=1, temperature=0, detokenize=False, extra_args={KEY: {"name": name, "record": hook, **more}}
        )
        async with aclosing(self._stream(ids, params, name, name)) as outputs:  # a unique salt: nothing is skipped
            async for _ in outputs:
                pass
        parts = await self.llm.collective_rpc("tiller_recorded", args=(name,))
        rows = next((p for p in parts if p), None)
        if rows is None:
            raise EngineFailed(f"nothing was recorded at {hook!r}")
        return torch.tensor(rows)[: len(ids)]

    async def _self_test(self, hook: str, sae: SAE) -> None:
        """Push the stream by a known vector and read it back. Raises BadBundle if it did not move by that."""
        ids = probe_ids(self.vocab_size)
        plain = await self._take_recorded(ids, hook, {})
        probe = probe_for(sae, plain)
        push = {
            "edits": {hook: [[probe.row, "add", probe.amount, 1.0]]},
            "revision": self.revision,
            "spans": [[*probe.span]],
            "new_from": None,
        }
        moved = await self._take_recorded(ids, hook, push)
        if not moved_as_asked(probe, plain, moved, self.llm.vllm_config.model_config.dtype):
            raise BadBundle(
                f"the tap at {hook!r} does not move the residual stream inside vLLM by what it should; "
                "refusing to serve unsteered replies as steered"
            )


def _start(path: str, asked: dict[str, Any], arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - vLLM's class
    """Start vLLM with the plugin's hook points configured. Raises BadBundle with the reason if it fails."""
    try:
        from vllm import AsyncEngineArgs  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
        from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]
        from vllm.v1.engine.async_llm import AsyncLLM  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BadBundle(MISSING) from error
    log.info("vLLM is starting: it loads the model, compiles it unless --enforce-eager is given, and reserves memory")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "why"
        os.environ[REPORT] = str(report)  # workers are other processes, which inherit it
        config = {KEY: asked | {"version": PLUGIN, "gates": GATES}}
        options = {"enable_prefix_caching": True, "disable_log_stats": True, **arguments}
        if current_platform.is_cpu():
            options.setdefault("gpu_memory_utilization", share_of_memory(*memory(), workers(options)))
        options["additional_config"] = dict(options.get("additional_config") or {}) | config
        options["worker_extension_cls"] = "server.engines.vllm.plugin.WorkerExtension"
        try:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(model=path, **options))
        except Exception as error:
            why = report.read_text(encoding="utf-8") if report.exists() else str(error)
            raise BadBundle(f"vLLM cannot serve {path!r} steered: {why}") from error


def memory() -> tuple[int, int]:
    """Bytes of memory that are free for new work, and in all."""
    import psutil  # vLLM depends on it

    now = psutil.virtual_memory()
    return now.available, now.total


def workers(options: Mapping[str, Any]) -> int:
    """Number of worker processes, of which each reserves its share."""
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    return math.prod(int(options.get(size, 1)) for size in sizes)


def share_of_memory(available: int, total: int, workers: int = 1) -> float:
    """Share of a CPU's memory that each worker may reserve: half of what is free, where vLLM's default is 0.92 of all."""
    return max(0.01, math.floor(50 * available / total / workers) / 100)


def read_flags(flags: Sequence[str]) -> dict[str, Any]:
    """Parse `flags` as vLLM's command line: the arguments that differ from its defaults.

    Raises BadBundle for an unknown option.
    """
    if not flags:
        return {}
    try:
        from vllm import AsyncEngineArgs  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
        from vllm.utils.argparse_utils import FlexibleArgumentParser  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BadBundle(MISSING) from error
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(exit_on_error=False))
    known, unknown = parser.parse_known_args(list(flags))
    if unknown:
        raise BadBundle(f"neither tiller nor vLLM knows the option {unknown[0]!r}")
    return {k: v for k, v in vars(known).items() if v != parser.get_default(k)}


def _worker_arguments(request: Generation, name: str) -> dict[str, Any] | None:
    """Arguments for the workers: ids and numbers. None if nothing is steered."""
    if not request.interventions:
        return None
    marks, spans = [*request.steered, False], []
    for i, (before, now) in enumerate(zip([False, *marks], marks, strict=False)):
        if now and not before:
            spans.append([i, i])
        if before and not now:
            spans[-1][1] = i
    edits = {h: [_intervention_arguments(i) for i in some] for h, some in request.interventions.items()}
    new_from = len(request.ids) if request.steer_new else None
    asked = {"name": name, "edits": edits, "revision": request.revision, "spans": spans, "new_from": new_from}
    preserve = [h for h, edit in request.edits.items() if edit.preserve]
    return asked | {"skip_new": bool(request.unsteered_new), "preserve": preserve}


def _intervention_arguments(i: ResolvedIntervention) -> list[Any]:
    return [i.index, i.mode, i.raw, i.scale, *([i.pinned.model_dump()] if i.pinned else [])]


def _salt(request: Generation) -> str:
    spec = request.fingerprint if request.interventions else ""
    parts = (request.tenant, request.revision, spec, *((request.marks,) if spec and request.marks else ()))
    return "|".join(parts) if spec or request.tenant else ""
