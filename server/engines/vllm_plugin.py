"""What runs inside vLLM's processes: the tap. Knows vLLM's model runner, SAEs and tables; nothing of HTTP or catalogues.

vLLM loads `register` by its entry point in every process. The hooked layers' forward then calls one op,
`tiller::steer`, which survives compilation because a compiler cannot look into it. Before each forward
the runner writes a table row for each token into a buffer that never moves; row 0 steers nothing. Specs
arrive in `SamplingParams.extra_args["tiller"]` as ids and numbers, checked before they were sent: what
went wrong here all the same is remembered by request, and the engine asks for it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steering.edits import ResolvedIntervention, SteeringTable, compile_edit
from steering.hooks import decoder_layers, layer_number
from steering.sae import SAE

log = logging.getLogger("vllm.tiller")
KEY = "tiller"
_TAPS: dict[int, "Tap"] = {}


@dataclass(eq=False)
class Tap:
    """One hooked layer: its table, this step's rows, and who is recorded."""

    table: SteeringTable
    rows: Tensor
    """`[tokens]`: the table's row of each token of the step."""
    idle: bool = True
    recorded: dict[str, list[Tensor]] = field(default_factory=dict)
    spans: list[tuple[str, int, int]] = field(default_factory=list)
    """Whose tokens of this step are recorded, as the layer gives them out, and where they are."""

    def apply(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """Return what the layer gives out instead of `hidden`; the stream is `hidden + residual`."""
        moved = hidden.clone()
        if not self.idle:
            moved = self.table.apply(hidden + residual, self.rows[: len(hidden)], onto=hidden)
        for who, start, end in self.spans:
            self.recorded[who].append((moved[start:end] + residual[start:end]).float().cpu())
        return moved


@torch.library.custom_op("tiller::steer", mutates_args=())
def _steer(hidden: Tensor, residual: Tensor, tap: int) -> Tensor:
    return _TAPS[tap].apply(hidden, residual)


@_steer.register_fake
def _(hidden: Tensor, residual: Tensor, tap: int) -> Tensor:  # noqa: ARG001 - shapes only
    return torch.empty_like(hidden)


@dataclass(eq=False)
class Steering:
    """All taps of one model runner, the SAEs by revision and hook point, and which request has which row."""

    taps: dict[str, Tap]
    saes: dict[str, dict[str, SAE]]
    rows: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def prepare(self, runner: Any) -> None:  # noqa: ANN401 - vLLM's class
        """Write the rows of the step that is about to run."""
        batch = runner.input_batch
        ids: list[str] = list(batch.req_ids[: batch.num_reqs])
        starts = runner.query_start_loc.np[: len(ids) + 1]
        for tap in self.taps.values():
            tap.rows.zero_()
            tap.idle, tap.spans = True, []
        self._forget_all_but(set(runner.requests))
        for i, request in enumerate(ids):
            sampling = runner.requests[request].sampling_params
            asked = (sampling.extra_args or {}).get(KEY) if sampling else None
            if asked:
                at = int(batch.num_computed_tokens_cpu[i])
                self._prepare_one(request, asked, int(starts[i]), int(starts[i + 1]), at)

    def _prepare_one(self, request: str, asked: dict[str, Any], start: int, end: int, at: int) -> None:
        try:
            if asked.get("record"):
                tap = self.taps[asked["record"]]
                tap.recorded.setdefault(asked["name"], [])
                tap.spans.append((asked["name"], start, end))
            if asked.get("edits"):
                row = self._row(request, asked)
                where = steered_at(asked["spans"], asked["new_from"], at, end - start)
                for hook in asked["edits"]:
                    tap = self.taps[hook]
                    tap.rows[start:end] = torch.from_numpy(where * row).to(tap.rows.device)
                    tap.idle = tap.idle and not where.any()
        except Exception as error:  # raising here would end the engine and everybody's replies with it
            log.exception("steering failed for one request")
            self.failed[asked.get("name", request)] = f"{type(error).__name__}: {error}"

    def _row(self, request: str, asked: dict[str, Any]) -> int:
        if request in self.rows:
            return self.rows[request]
        taken, most = set(self.rows.values()), min(len(t.table.push) for t in self.taps.values())
        row = next(r for r in range(1, most) if r not in taken)
        for hook, rows in asked["edits"].items():
            sae = self.saes[asked["revision"]][hook]
            self.taps[hook].table.set(row, compile_edit([ResolvedIntervention(*r) for r in rows], sae))
        self.rows[request] = row
        return row

    def _forget_all_but(self, known: set[str]) -> None:
        for request in [r for r in self.rows if r not in known]:
            row = self.rows.pop(request)
            for tap in self.taps.values():
                tap.table.clear(row)


def steered_at(spans: list[list[int]], new_from: int | None, at: int, count: int) -> np.ndarray:
    """Which of the positions `at … at + count − 1` are steered: those in a span, and all new ones from `new_from` on."""
    positions = np.arange(at, at + count)
    steered = np.zeros(count, dtype=np.int64)
    for start, end in spans:
        steered |= (positions >= start) & (positions < end)
    if new_from is not None:
        steered |= positions >= new_from
    return steered


class WorkerExtension:
    """What the engine may ask of a worker, by name."""

    model_runner: Any

    def tiller_add_revision(self, revision: str, folders: dict[str, str]) -> bool:
        """Load another revision's SAEs, by hook point; running requests keep theirs."""
        steering: Steering = self.model_runner.tiller
        steering.saes[revision] = _load(folders, self.model_runner.device)
        return True

    def tiller_drop_revision(self, revision: str) -> bool:
        """Forget a revision that nobody uses any more."""
        steering: Steering = self.model_runner.tiller
        return steering.saes.pop(revision, None) is not None

    def tiller_recorded(self, hook: str, name: str) -> list[list[float]] | None:
        """Hand over what was recorded under a name, `[tokens, d_in]`; None if nothing was."""
        parts = self.model_runner.tiller.taps[hook].recorded.pop(name, None)
        return torch.cat(parts).tolist() if parts else None

    def tiller_failure(self, name: str) -> str | None:
        """Why a request could not be steered, if so."""
        return self.model_runner.tiller.failed.pop(name, None)


def register() -> None:
    """Teach vLLM's model runners the tap. Called by vLLM in every process; twice is once."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner  # pyright: ignore[reportMissingImports]

    _teach(GPUModelRunner)
    try:
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner  # pyright: ignore[reportMissingImports]
    except ImportError:  # a build for another device
        return
    _teach(CPUModelRunner)


def _teach(runner: Any) -> None:  # noqa: ANN401 - vLLM's class
    if "load_model" in vars(runner) and not hasattr(vars(runner)["load_model"], KEY):
        runner.load_model = _marked(_loading(vars(runner)["load_model"]))
    if "_model_forward" in vars(runner) and not hasattr(vars(runner)["_model_forward"], KEY):
        runner._model_forward = _marked(_preparing(vars(runner)["_model_forward"]))


def _marked(function: Callable[..., Any]) -> Callable[..., Any]:
    setattr(function, KEY, True)
    return function


def _loading(load: Callable[..., None]) -> Callable[..., None]:
    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        load(self, *args, **kwargs)
        asked = (self.vllm_config.additional_config or {}).get(KEY)
        if asked and not hasattr(self, KEY):
            self.tiller = _install(self, asked)

    return load_model


def _preparing(forward: Callable[..., Any]) -> Callable[..., Any]:
    def model_forward(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if steering := getattr(self, KEY, None):
            steering.prepare(self)
        return forward(self, *args, **kwargs)

    return model_forward


def _install(runner: Any, asked: dict[str, Any]) -> Steering:  # noqa: ANN401
    scheduler, device = runner.vllm_config.scheduler_config, runner.device
    layers, taps = decoder_layers(runner.get_model()), {}
    for hook in asked["folders"]:
        d_in = runner.vllm_config.model_config.get_hidden_size()
        table = SteeringTable(scheduler.max_num_seqs + 1, d_in, device=device)
        rows = torch.zeros(scheduler.max_num_batched_tokens + scheduler.max_num_seqs, dtype=torch.long, device=device)
        taps[hook] = Tap(table, rows)
        number = len(_TAPS)
        _TAPS[number] = taps[hook]
        _wrap(layers[layer_number(hook)], number)
    return Steering(taps, {asked["revision"]: _load(asked["folders"], device)})


def _wrap(layer: nn.Module, tap: int) -> None:
    original = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        hidden, residual = original(*args, **kwargs)
        return torch.ops.tiller.steer(hidden, residual, tap), residual

    layer.forward = forward


def _load(folders: dict[str, str], device: torch.device) -> dict[str, SAE]:
    return {hook: SAE.load(Path(folder)).to(device) for hook, folder in folders.items()}
