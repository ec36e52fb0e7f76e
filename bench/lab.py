"""Shared parts of the engine benchmarks: a model with a random SAE, requests, interleaved rounds, ratios and their
table.

All cases of a comparison run by turns, round by round, and their medians are compared: absolute speeds differ between
machines and minutes, ratios much less. No bundle is needed, because the meaning of a direction does not change its
cost.
"""

import asyncio
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from server.engines.base import Engine, Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from steering.edits import ResolvedIntervention, compile_edit
from steering.sae import SAE
from steering.spec import Mode

STREAMS, TOKENS = 16, 64
CORES = torch.get_num_threads()
Case = Callable[[], Awaitable[float]]
Spec = dict[str, tuple[ResolvedIntervention, ...]]

SHAPES = {
    "70m": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 2048,
    },
}
"""Random models for speed alone, with the embedded tokenizer."""


@dataclass(frozen=True)
class Estimate:
    """A median with its 95 % interval (by ranks, no distribution assumed)."""

    value: float
    low: float
    high: float

    @staticmethod
    def median_of(values: Iterable[float], scale: float = 1.0) -> "Estimate":
        """The median of some values times `scale`."""
        found = sorted(scale * v for v in values)
        rank = max(0, math.floor(len(found) / 2 - 0.98 * math.sqrt(len(found))))
        return Estimate(statistics.median(found), found[rank], found[-1 - rank])


@dataclass(frozen=True)
class Ratio:
    """One line of the table: a comparison and its goal."""

    what: str
    found: Estimate
    goal: float | None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if self.goal is None:
            return None
        return self.found.value <= self.goal if self.at_most else self.found.value >= self.goal


@dataclass(frozen=True)
class Lab:
    """A model with its tokenizer, a random SAE, and the steered layer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    sae: SAE
    hook: str

    @staticmethod
    def named(name: str, folder: str, device: str = "cpu") -> "Lab":
        """`embedded`, the model of the bundle in `folder`, or one of SHAPES, random; on a GPU in bf16."""
        tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "model")
        if name == "embedded":
            model, hook = LlamaForCausalLM.from_pretrained(Path(folder) / "model", dtype=torch.float32), "layers.3"
        else:
            torch.manual_seed(0)
            ends = {"bos_token_id": 0, "eos_token_id": 4, "pad_token_id": 0}
            shape: dict[str, Any] = {"vocab_size": len(tokenizer), "head_dim": 64, **SHAPES[name], **ends}
            model = LlamaForCausalLM(LlamaConfig(**shape))
            hook = f"layers.{model.config.num_hidden_layers // 2}"
        kind = torch.float32 if device == "cpu" else torch.bfloat16
        placed = model.eval().to(device=torch.device(device), dtype=kind)  # pyright: ignore[reportCallIssue]
        return Lab(placed, tokenizer, _sae(int(model.config.hidden_size)).to(device), hook)

    def engine(self, *, hooks: bool = True, live: int = STREAMS, prefix_mb: int = 0) -> TransformersEngine:
        """Return a new engine; without a prefix cache unless asked for."""
        return TransformersEngine(
            self.model, self.tokenizer, hooks=[self.hook] * hooks, live=live, queue=256, prefix_mb=prefix_mb
        )

    def spec(self, seed: int, features: int = 1, mode: Mode = "add") -> Spec:
        """Return a spec of that many features; another seed has other features."""
        rows = (r % self.sae.d_sae for r in range(seed * 8, seed * 8 + features))
        return {self.hook: tuple(ResolvedIntervention(r, mode, 2.0) for r in rows)}

    def request(self, number: int, spec: Spec, *, tokens: int = TOKENS) -> Generation:
        """Return a short chat whose reply has exactly that many tokens."""
        ids = tuple((5 + (number * 7 + i * 13) % 300) for i in range(24))
        return Generation(
            (0, 2, *ids, 4, 3),
            (False,) * 27 + (True,),
            steer_new=True,
            edits={hook: compile_edit(list(items), self.sae) for hook, items in spec.items()},
            interventions=spec,
            fingerprint=repr(spec),
            revision="r1",
            sampling=Sampling(temperature=0, max_tokens=tokens, ignore_eos=True),
        )

    def save(self, folder: Path) -> None:
        """Write model and SAE for an engine that loads its own."""
        self.model.save_pretrained(folder / "model")
        self.tokenizer.save_pretrained(folder / "model")
        self.sae.save(folder / "r1", hook=self.hook, model="lab")


def _sae(width: int) -> SAE:
    rows = torch.nn.functional.normalize(torch.randn(1024, width, generator=torch.Generator().manual_seed(1)), dim=1)
    return SAE(rows.T.contiguous(), torch.zeros(1024), rows, torch.zeros(width), torch.full((1024,), 0.1))


@dataclass(frozen=True)
class Rounds:
    """Measurements of each case, round by round."""

    values: dict[str, list[float]]

    def median(self, case: str, scale: float = 1.0) -> Estimate:
        """Median of one case."""
        return Estimate.median_of(self.values[case], scale)

    def ratio(self, case: str, to: str) -> Estimate:
        """One case divided by another of the same round, so that common slowdowns cancel."""
        return Estimate.median_of(a / b for a, b in zip(self.values[case], self.values[to], strict=True))


async def by_turns(cases: dict[str, Case], rounds: int) -> Rounds:
    """Run every case once to warm up, then all of them in each round, in another order each time."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    order = random.Random(0)
    for number in range(rounds + 1):
        for name in order.sample(list(cases), len(cases)):
            value = await cases[name]()
            if number:
                found[name].append(value)
    return Rounds(found)


async def speed(engine: Engine, requests: list[Generation]) -> float:
    """Tokens per second of all requests at once."""

    async def one(request: Generation) -> int:
        tokens = 0
        async for piece in engine.generate(request):
            tokens = piece.tokens
        return tokens

    start = time.perf_counter()
    return sum(await asyncio.gather(*map(one, requests))) / (time.perf_counter() - start)


@torch.no_grad()
def generate(model: PreTrainedModel, requests: list[Generation]) -> float:
    """Tokens per second of transformers' `generate()` on a static batch of prompts of one length, on all cores."""
    torch.set_num_threads(CORES)
    ids, tokens = torch.tensor([r.ids for r in requests], device=model.device), requests[0].sampling.max_tokens
    start = time.perf_counter()
    model.generate(  # pyright: ignore[reportCallIssue] - transformers types its mixin as a tensor
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return len(requests) * tokens / (time.perf_counter() - start)


def show(title: str, rows: list[Ratio], file: Path | None) -> None:
    """Print the table; write it as JSON if a file is given."""
    table = Table(title, "median", "95 %", "goal", "")
    for r in rows:
        goal = "" if r.goal is None else f"{'≤' if r.at_most else '≥'} {r.goal}"
        verdict = "" if r.met is None else "[green]met" if r.met else "[red]missed"
        value, low, high = (f"{v:,.0f}" if v > 100 else f"{v:.3f}" for v in astuple(r.found))
        table.add_row(r.what, value, f"{low} … {high}", goal, verdict)
    Console(file=sys.stdout, width=110).print(table)
    if file:
        file.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
