"""How fast is the engine? `python -m bench.engines` prints ratios: steered to unsteered, us to `generate()` and peers.

All cases of a comparison run interleaved, round by round, and their medians are compared: absolute
speeds differ between machines and minutes, ratios much less. Knows the engine and edits; no bundle's
catalogue, because what a direction means does not change what it costs.
"""

import argparse
import asyncio
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from server.engines.engine import Generation, Sampling
from server.engines.transformers_engine import TransformersEngine
from steering.edits import ResidualEdit, ResolvedIntervention, compile_edit
from steering.sae import SAE

STREAMS, TOKENS = 16, 64
Case = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Ratio:
    """One line of the table: what was compared, at which goal."""

    what: str
    value: float
    goal: float | None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None if there is none."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal


@dataclass(frozen=True)
class Lab:
    """A model with its tokenizer, a made-up SAE, and the layer that is steered."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    sae: SAE
    hook: str

    @staticmethod
    def embedded(folder: str) -> "Lab":
        """The shipped model."""
        model = LlamaForCausalLM.from_pretrained(Path(folder) / "model", dtype=torch.float32).eval()
        return Lab(model, AutoTokenizer.from_pretrained(Path(folder) / "model"), _sae(256), "layers.3")

    @staticmethod
    def random_70m(folder: str) -> "Lab":
        """A Llama of 63 M random parameters with the embedded tokenizer."""
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "model")
        shape = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=8,
            num_attention_heads=12,
            num_key_value_heads=4,
            head_dim=64,
            max_position_embeddings=2048,
            bos_token_id=0,
            eos_token_id=4,
            pad_token_id=0,
        )
        return Lab(LlamaForCausalLM(shape).eval(), tokenizer, _sae(768), "layers.4")

    def engine(self, *, hooks: bool = True, live: int = STREAMS, prefix_mb: int = 0) -> TransformersEngine:
        """A fresh engine; nothing is remembered between requests unless it is asked for."""
        return TransformersEngine(
            self.model, self.tokenizer, hooks=[self.hook] * hooks, live=live, queue=256, prefix_mb=prefix_mb
        )

    def edit(self, seed: int, features: int = 1) -> dict[str, ResidualEdit]:
        """An additive edit of so many features."""
        rows = range(seed * 8, seed * 8 + features)
        return {self.hook: compile_edit([ResolvedIntervention(r % self.sae.d_sae, "add", 2.0) for r in rows], self.sae)}

    def request(self, number: int, edits: dict[str, ResidualEdit], *, tokens: int = TOKENS) -> Generation:
        """A short chat that is answered with exactly so many tokens."""
        ids = tuple((5 + (number * 7 + i * 13) % 300) for i in range(24))
        sampling = Sampling(temperature=0, max_tokens=tokens, ignore_eos=True)
        return Generation((0, 2, *ids, 4, 3), (False,) * 27 + (True,), True, edits, f"s{number}", sampling=sampling)


def _sae(width: int) -> SAE:
    rows = torch.nn.functional.normalize(torch.randn(1024, width, generator=torch.Generator().manual_seed(1)), dim=1)
    return SAE(rows.T.contiguous(), torch.zeros(1024), rows, torch.zeros(width), torch.full((1024,), 0.1))


async def speed(engine: TransformersEngine, requests: list[Generation]) -> float:
    """Tokens a second of all requests at once."""

    async def one(request: Generation) -> int:
        tokens = 0
        async for piece in engine.generate(request):
            tokens = piece.tokens
        return tokens

    start = time.perf_counter()
    return sum(await asyncio.gather(*map(one, requests))) / (time.perf_counter() - start)


async def medians(cases: dict[str, Case], rounds: int) -> dict[str, float]:
    """Run every case once to warm up, then all of them by turns."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            value = await case()
            if number:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


async def batches(lab: Lab, rounds: int) -> list[Ratio]:
    """What steering costs in a batch, and what idle taps cost."""
    engine, bare, wide = lab.engine(), lab.engine(hooks=False), lab.engine(live=64)
    one = lab.edit(0)
    cases: dict[str, Case] = {
        "bare": lambda: speed(bare, [lab.request(i, {}) for i in range(STREAMS)]),
        "unsteered": lambda: speed(engine, [lab.request(i, {}) for i in range(STREAMS)]),
        "16 specs": lambda: speed(engine, [lab.request(i, lab.edit(i)) for i in range(STREAMS)]),
        "8 features": lambda: speed(engine, [lab.request(i, lab.edit(i, 8)) for i in range(STREAMS)]),
        "64 specs": lambda: speed(wide, [lab.request(i, lab.edit(i), tokens=32) for i in range(64)]),
        "1 spec": lambda: speed(wide, [lab.request(i, one, tokens=32) for i in range(64)]),
        "alone": lambda: speed(engine, [lab.request(0, {})]),
        "generate, batch of 16": lambda: _generate(lab, STREAMS),
        "generate, alone": lambda: _generate(lab, 1),
    }
    m = await medians(cases, rounds)
    for each in (engine, bare, wide):
        await each.close()
    return [
        Ratio("16 requests, 16 specs ÷ unsteered", m["16 specs"] / m["unsteered"], 0.95),
        Ratio("64 specs ÷ 1 spec, 64 requests", m["64 specs"] / m["1 spec"], 0.97),
        Ratio("8 features ÷ 1 feature per request", m["8 features"] / m["16 specs"], 0.98),
        Ratio("idle tap ÷ no tap", m["unsteered"] / m["bare"], 0.99),
        Ratio("16 streams ÷ generate() on a static batch", m["unsteered"] / m["generate, batch of 16"], 0.8),
        Ratio("1 stream ÷ generate()", m["alone"] / m["generate, alone"], 0.9),
        Ratio("16 streams, tokens/s", m["unsteered"], None),
        Ratio("1 stream, tokens/s", m["alone"], None),
    ]


@torch.no_grad()
async def _generate(lab: Lab, streams: int) -> float:
    ids = torch.tensor([lab.request(i, {}).ids for i in range(streams)])
    start = time.perf_counter()
    lab.model.generate(  # pyright: ignore[reportCallIssue] - transformers types its mixin as a tensor
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        do_sample=False,
        pad_token_id=0,
    )
    return streams * TOKENS / (time.perf_counter() - start)


async def turns(lab: Lab, rounds: int) -> list[Ratio]:
    """Time to the first token of a fifth turn: steered, unsteered, and computed anew."""
    cached, anew = lab.engine(prefix_mb=512), lab.engine()
    count = iter(range(10**9))

    async def first(engine: TransformersEngine, edits: dict[str, ResidualEdit]) -> float:
        number, ids, took = next(count), [0], 0.0
        for turn in range(5):
            ids += [2, *((5 + (number * 31 + turn * 17 + i * 11) % 3000) for i in range(48)), 4, 3]
            wanted = lab.request(number, edits, tokens=48)
            wanted = replace(wanted, ids=tuple(ids), steered=(True,) * len(ids))
            start, spoken = time.perf_counter(), []
            async for piece in engine.generate(wanted):
                if not spoken:
                    took = time.perf_counter() - start
                spoken += piece.ids
            ids += [*spoken, 4]
        return took

    m = await medians(
        {
            "steered": lambda: first(cached, lab.edit(1)),
            "unsteered": lambda: first(cached, {}),
            "anew": lambda: first(anew, lab.edit(1)),
        },
        rounds,
    )
    await cached.close()
    await anew.close()
    return [
        Ratio("turn 5, first token: steered ÷ unsteered", m["steered"] / m["unsteered"], 1.1, at_most=True),
        Ratio("turn 5, first token: steered ÷ computed anew", m["steered"] / m["anew"], 0.4, at_most=True),
    ]


async def peers(lab: Lab, rounds: int) -> list[Ratio]:
    """16 streams with 16 specs here, and one after the other in libraries that hold one spec at a time."""
    engine = lab.engine()
    cases: dict[str, Case] = {
        "ours": lambda: speed(engine, [lab.request(i, lab.edit(i)) for i in range(STREAMS)]),
    }
    if importlib.util.find_spec("repeng"):
        cases["repeng"] = lambda: _repeng(lab)
    if importlib.util.find_spec("steering_vectors"):
        cases["steering-vectors"] = lambda: _steering_vectors(lab)
    m = await medians(cases, rounds)
    await engine.close()
    return [Ratio(f"16 streams, 16 specs ÷ {p}", m["ours"] / m[p], 5.0) for p in cases if p != "ours"]


@torch.no_grad()
async def _repeng(lab: Lab) -> float:
    from repeng import ControlModel, ControlVector  # type: ignore[import-not-found]

    layer = int(lab.hook.rpartition(".")[2])
    control = ControlModel(lab.model, [layer])
    start = time.perf_counter()
    try:
        for i in range(STREAMS):
            push = lab.edit(i)[lab.hook].push.numpy()
            control.set_control(ControlVector(model_type="llama", directions={layer: push}))
            _one(control.model, lab, i)
    finally:
        control.unwrap()
    return STREAMS * TOKENS / (time.perf_counter() - start)


@torch.no_grad()
async def _steering_vectors(lab: Lab) -> float:
    from steering_vectors import SteeringVector  # type: ignore[import-not-found]

    layer = int(lab.hook.rpartition(".")[2])
    start = time.perf_counter()
    for i in range(STREAMS):
        vector = SteeringVector(layer_activations={layer: lab.edit(i)[lab.hook].push}, layer_type="decoder_block")
        with vector.apply(lab.model):
            _one(lab.model, lab, i)
    return STREAMS * TOKENS / (time.perf_counter() - start)


def _one(model: PreTrainedModel, lab: Lab, number: int) -> None:
    ids = torch.tensor([lab.request(number, {}).ids])
    model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        do_sample=False,
        pad_token_id=0,
    )


def main() -> None:
    """Print the table; `--json` writes it, too."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--model", choices=["embedded", "70m"], default="embedded")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--only", choices=["batches", "turns", "peers"])
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    lab = Lab.embedded(args.bundle) if args.model == "embedded" else Lab.random_70m(args.bundle)
    parts = {"batches": batches, "turns": turns, "peers": peers}
    rows = [r for n, part in parts.items() if args.only in (None, n) for r in asyncio.run(part(lab, args.rounds))]
    table = Table(f"{args.model}, median of {args.rounds}", "ratio", "goal", "")
    for r in rows:
        goal = "" if r.goal is None else f"{'≤' if r.at_most else '≥'} {r.goal}"
        verdict = "" if r.met is None else "[green]met" if r.met else "[red]missed"
        table.add_row(r.what, f"{r.value:,.0f}" if r.value > 50 else f"{r.value:.3f}", goal, verdict)
    Console(file=sys.stdout).print(table)
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
