"""vLLM plugin: the steering hook inside vLLM's processes.

vLLM loads `register` by its entry point in every process. The hooked layers' forward then calls one
op, `tiller::steer`, which survives compilation because it is opaque to the compiler. Before each
forward the runner writes a table row per token into a buffer with a fixed address; row 0 steers
nothing. With captured graphs, the op's work depends on buffers only, so a replay steers as the
first run does. Specs arrive in `SamplingParams.extra_args["tiller"]` as ids and numbers, validated
before; a failure is stored by request, and the engine reads it.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steering.edits import ResolvedIntervention, SteeringTable, compile_edit
from steering.errors import UnknownArchitecture
from steering.model.hooks import decoder_layers, layer_number
from steering.sae import SAE
from steering.spec import FeatureSnapshot, Mode

log = logging.getLogger("vllm.tiller")
KEY = "tiller"
REPORT = "TILLER_REPORT"
"""Variable with the name of a file for the reason why a worker cannot start. A field of vLLM's
configuration would become part of the cache key of compiled graphs."""
_TAPS: dict[int, "Tap"] = {}


@dataclass(eq=False)
class Tap:
    """One hooked layer: its table and this step's rows. With `captured`, its work depends on buffers only."""

    table: SteeringTable
    rows: Tensor
    """`[tokens]`: the table row of each token of the step."""
    stream: Tensor
    """`[tokens, d_in]`: the layer's output stream, where it is recorded."""
    captured: bool = False
    """Whether the layer runs in a captured graph: then every step runs the same operations, needed or not."""
    idle: bool = True
    looked_at: bool = False

    def apply(self, hidden: Tensor, residual: Tensor | None) -> Tensor:
        """The layer's output in place of `hidden`; the stream is `hidden + residual`."""
        n = len(hidden)
        if self.idle and not self.captured:
            moved = hidden.clone()
        else:
            x = hidden if residual is None else hidden + residual
            moved = self.table.apply(x, self.rows[:n], onto=hidden, all_gates=self.captured)
        if self.looked_at or self.captured:
            self.stream[:n] = moved if residual is None else moved + residual
        return moved


@torch.library.custom_op("tiller::steer", mutates_args=())
def _steer(hidden: Tensor, residual: Tensor | None, tap: int) -> Tensor:
    return _TAPS[tap].apply(hidden, residual)


@_steer.register_fake
def _(hidden: Tensor, residual: Tensor | None, tap: int) -> Tensor:  # noqa: ARG001 - shapes only
    return torch.empty_like(hidden)


class Rewindable(torch.Generator):
    """CPU generator of a seeded request that can be rewound.

    When vLLM discards a draw, because a prompt is prefilled in chunks, it moves the generator's
    offset back. A CPU generator has no offset, and the error would end the engine and all replies.
    Here it is reset to the start of the step.
    """

    begun: Tensor

    def get_offset(self) -> int:
        """Any number; only differences are used."""
        return 0

    def set_offset(self, offset: int) -> torch.Generator:  # noqa: ARG002 - vLLM's signature
        """Undo the draws of this step."""
        return self.set_state(self.begun)


def _make_rewindable(runner: Any) -> None:  # noqa: ANN401 - vLLM's class
    """Make the CPU generators of the next step rewindable to their present state."""
    batch = runner.input_batch
    for i, generator in list(batch.generators.items()):
        if generator.device.type != "cpu":
            continue
        if not isinstance(generator, Rewindable):
            found = Rewindable("cpu")
            found.set_state(generator.get_state())
            batch.generators[i] = runner.requests[batch.req_ids[i]].generator = generator = found
        generator.begun = generator.get_state()


@dataclass(eq=False)
class Steering:
    """All hooks of one model runner, the SAEs by revision and hook point, and the table row of each request."""

    taps: dict[str, Tap]
    saes: dict[str, dict[str, SAE]]
    special: Tensor
    """Ids of special tokens."""
    rows: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    recorded: dict[str, list[Tensor]] = field(default_factory=dict)
    _spans: list[tuple[str, str, int, int]] = field(default_factory=list)
    """Tokens of this step to record: name, hook point, start, end."""

    def prepare(self, runner: Any, input_ids: Tensor | None) -> None:  # noqa: ANN401 - vLLM's class
        """Write the table rows for the next step, whose tokens are `input_ids`."""
        batch = runner.input_batch
        ids: list[str] = list(batch.req_ids[: batch.num_reqs])
        starts = runner.query_start_loc.np[: len(ids) + 1]
        rows = {hook: np.zeros(len(tap.rows), dtype=np.int64) for hook, tap in self.taps.items()}
        self._spans, skipping = [], np.zeros(len(next(iter(rows.values()), ())), dtype=bool)
        _make_rewindable(runner)
        self._forget_all_but(set(ids))  # a preempted request gets a row again when it is resumed
        for i, request in enumerate(ids):
            sampling = runner.requests[request].sampling_params
            asked = (sampling.extra_args or {}).get(KEY) if sampling else None
            if asked:
                start, end, at = int(starts[i]), int(starts[i + 1]), int(batch.num_computed_tokens_cpu[i])
                self._prepare_one(request, asked, {h: r[start:end] for h, r in rows.items()}, start, at)
                if asked.get("skip_new") and asked["new_from"] is not None:
                    skipping[start:end] = np.arange(at, at + end - start) >= asked["new_from"]
        for hook, tap in self.taps.items():
            tap.idle, tap.looked_at = not rows[hook].any(), any(s[1] == hook for s in self._spans)
            tap.rows.copy_(torch.from_numpy(rows[hook]))
        if input_ids is not None and skipping.any():
            self._leave_out_special(input_ids, torch.from_numpy(skipping))

    def _leave_out_special(self, input_ids: Tensor, skipping: Tensor) -> None:
        """Steer no special token where `skipping`: a new token is only known on the device."""
        n = min(len(input_ids), len(skipping))
        out = skipping[:n].to(self.special.device) & torch.isin(input_ids[:n], self.special)
        for tap in self.taps.values():
            tap.rows[:n].masked_fill_(out, 0)

    def collect(self) -> None:
        """Store what the last step recorded."""
        for name, hook, start, end in self._spans:
            self.recorded[name].append(self.taps[hook].stream[start:end].to("cpu", torch.float32, copy=True))

    def _prepare_one(
        self, request: str, asked: dict[str, Any], rows: dict[str, np.ndarray], start: int, at: int
    ) -> None:
        try:
            if hook := asked.get("record"):
                self.recorded.setdefault(asked["name"], [])
                self._spans.append((asked["name"], hook, start, start + len(rows[hook])))
            if asked.get("edits"):
                row = self._row(request, asked)
                for hook in asked["edits"]:
                    rows[hook][:] = steered_at(asked["spans"], asked["new_from"], at, len(rows[hook])) * row
        except Exception as error:  # raising here would end the engine and all replies
            log.exception("steering failed for one request")
            self.failed[asked.get("name", request)] = f"{type(error).__name__}: {error}"

    def _row(self, request: str, asked: dict[str, Any]) -> int:
        """The request's row in all tables, filled on first use."""
        if request in self.rows:
            return self.rows[request]
        taken, most = set(self.rows.values()), min(len(t.table.push) for t in self.taps.values())
        row = next(r for r in range(1, most) if r not in taken)
        for hook, rows in asked["edits"].items():
            sae = self.saes[asked["revision"]][hook]
            edit = compile_edit([_intervention(*r) for r in rows], sae, preserve=hook in asked.get("preserve", ()))
            self.taps[hook].table.set(row, edit)
        self.rows[request] = row
        return row

    def _forget_all_but(self, here: set[str]) -> None:
        for request in [r for r in self.rows if r not in here]:
            row = self.rows.pop(request)
            for tap in self.taps.values():
                tap.table.clear(row)


def _intervention(
    index: int, mode: Mode, raw: float, scale: float, pinned: dict[str, Any] | None = None
) -> ResolvedIntervention:
    return ResolvedIntervention(index, mode, raw, scale, FeatureSnapshot.model_validate(pinned) if pinned else None)


def steered_at(spans: list[list[int]], new_from: int | None, at: int, count: int) -> np.ndarray:
    """Which positions `at … at + count − 1` are steered: those in a span, and all new ones from `new_from` on."""
    positions = np.arange(at, at + count)
    steered = np.zeros(count, dtype=np.int64)
    for start, end in spans:
        steered |= (positions >= start) & (positions < end)
    if new_from is not None:
        steered |= positions >= new_from
    return steered


class WorkerExtension:
    """Worker methods that the engine calls by name."""

    model_runner: Any

    def tiller_add_revision(self, revision: str, folders: dict[str, str]) -> bool:
        """Load another revision's SAEs, by hook point; running requests keep theirs."""
        steering: Steering = self.model_runner.tiller
        steering.saes[revision] = _load(folders, self.model_runner.device)
        return True

    def tiller_drop_revision(self, revision: str) -> bool:
        """Unload an unused revision."""
        steering: Steering = self.model_runner.tiller
        return steering.saes.pop(revision, None) is not None

    def tiller_recorded(self, name: str) -> list[list[float]] | None:
        """Return and remove the recording of a name, `[tokens, d_in]`; None if there is none."""
        parts = self.model_runner.tiller.recorded.pop(name, None)
        return torch.cat(parts).tolist() if parts else None

    def tiller_failure(self, name: str) -> str | None:
        """Why a request could not be steered, if so."""
        return self.model_runner.tiller.failed.pop(name, None)


def register() -> None:
    """Patch vLLM's model runners. Called by vLLM in every process; idempotent."""
    _report_start_failures()
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner  # pyright: ignore[reportMissingImports]

    _patch_runner(GPUModelRunner)
    try:
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner  # pyright: ignore[reportMissingImports]
    except ImportError:  # a build for another device
        return
    _patch_runner(CPUModelRunner)


def _patch_runner(runner: Any) -> None:  # noqa: ANN401 - vLLM's class
    if "load_model" in vars(runner) and not hasattr(vars(runner)["load_model"], KEY):
        runner.load_model = _mark_patched(_with_steering_installed(vars(runner)["load_model"]))
    if "_model_forward" in vars(runner) and not hasattr(vars(runner)["_model_forward"], KEY):
        runner._model_forward = _mark_patched(_with_steering(vars(runner)["_model_forward"]))


def _mark_patched(function: Callable[..., Any]) -> Callable[..., Any]:
    setattr(function, KEY, True)
    return function


def _with_steering_installed(load: Callable[..., None]) -> Callable[..., None]:
    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        load(self, *args, **kwargs)
        asked = (self.vllm_config.additional_config or {}).get(KEY)
        if asked and not hasattr(self, KEY):
            try:
                self.tiller = _install(self, asked)
            except Exception as error:
                _report(str(error))
                raise

    return load_model


def _report(why: str) -> None:
    """Report to the parent process why this one ends: vLLM itself only reports that it does."""
    if (path := os.environ.get(REPORT)) and not Path(path).exists():  # the first reason is the cause of the others
        Path(path).write_text(why, encoding="utf-8")


class _StartFailures(logging.Handler):
    """Reports what vLLM logs when one of its processes cannot start."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] and record.getMessage().endswith("failed to start."):
            _report(str(record.exc_info[1]))


def _report_start_failures() -> None:
    logger = logging.getLogger("vllm")
    if not any(isinstance(h, _StartFailures) for h in logger.handlers):
        logger.addHandler(_StartFailures(logging.ERROR))


def _with_steering(forward: Callable[..., Any]) -> Callable[..., Any]:
    def model_forward(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        steering = getattr(self, KEY, None)
        if steering is None:
            return forward(self, *args, **kwargs)
        steering.prepare(self, kwargs.get("input_ids", args[0] if args else None))
        found = forward(self, *args, **kwargs)
        steering.collect()
        return found

    return model_forward


def _install(runner: Any, asked: dict[str, Any]) -> Steering:  # noqa: ANN401
    config, device, dtype = runner.vllm_config, runner.device, runner.model_config.dtype
    scheduler, d_in = config.scheduler_config, config.model_config.get_hidden_size()
    tokens = scheduler.max_num_batched_tokens + scheduler.max_num_seqs
    graphs = config.compilation_config.cudagraph_mode
    captured = device.type != "cpu" and graphs is not None and graphs.name != "NONE"
    layers, taps, saes = decoder_layers(runner.get_model()), {}, _load(asked["folders"], device)
    read_only = [hook for hook in asked.get("reads", ()) if hook not in saes]
    for hook in (*saes, *read_only):
        seats, gates = scheduler.max_num_seqs + 1, asked["gates"] if hook in saes else 1
        scaling = saes[hook].scaling if hook in saes else "none"
        table = SteeringTable(seats, d_in, gates=gates, device=device, scaling=scaling)
        taps[hook] = Tap(
            table,
            rows=torch.zeros(tokens, dtype=torch.long, device=device),
            stream=torch.zeros(tokens, d_in, dtype=dtype, device=device),
            captured=captured,
        )
        number = layer_number(hook)  # a compiled graph from the cache calls its hook by this number
        if number >= len(layers):
            raise UnknownArchitecture(f"no hook point {hook!r}: the model has layers 0…{len(layers) - 1}")
        _TAPS[number] = taps[hook]
        _wrap(layers[number], hook)
    special = torch.tensor(asked.get("special", ()), dtype=torch.long, device=device)
    return Steering(taps, {asked["revision"]: saes}, special)


def _wrap(layer: nn.Module, hook: str) -> None:
    """Wrap a decoder layer so that its output passes the hook, in either of the two forms of vLLM's models."""
    original, kind, tap = layer.forward, type(layer).__name__, layer_number(hook)

    def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        out = original(*args, **kwargs)
        if isinstance(out, Tensor):  # the stream itself
            return torch.ops.tiller.steer(out, None, tap)
        if isinstance(out, tuple) and len(out) == 2 and isinstance(out[0], Tensor):
            return torch.ops.tiller.steer(out[0], out[1], tap), out[1]
        raise UnknownArchitecture(
            f"the layer at {hook!r}, a {kind}, gives out neither the stream nor (hidden, residual); it cannot be steered"
        )

    layer.forward = forward


def _load(folders: dict[str, str], device: torch.device) -> dict[str, SAE]:
    return {hook: SAE.load(Path(folder)).to(device) for hook, folder in folders.items()}
