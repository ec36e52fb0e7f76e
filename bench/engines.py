"""Engine throughput: `python -m bench.engines` prints ratios of steered to unsteered, and of our engine to
`generate()`.

`--engine vllm` compares vLLM with steering to itself and to a vLLM without our plugin, where it is installed.
"""

import argparse
import asyncio
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.lab import SHAPES, STREAMS, Case, Lab, Ratio, Rounds, Spec, by_turns, generate, show, speed
from server.engines.base import Engine
from server.engines.transformers.engine import TransformersEngine

WIDE = 64
VLLM = {
    "gpu_memory_utilization": 0.15,
    "block_size": 32,
    "max_num_seqs": WIDE,
    "max_num_batched_tokens": 1024,
    "max_model_len": 1024,
    "enable_prefix_caching": False,
}


def batch(lab: Lab, engine: Engine) -> dict[str, Case]:
    """Cost of steering in a batch: the cases that every engine runs."""
    one, some = lab.spec(0), range(STREAMS)
    return {
        "unsteered": lambda: speed(engine, [lab.request(i, {}) for i in some]),
        "16 specs": lambda: speed(engine, [lab.request(i, lab.spec(i)) for i in some]),
        "8 features": lambda: speed(engine, [lab.request(i, lab.spec(i, 8)) for i in some]),
        "8 clamped": lambda: speed(engine, [lab.request(i, lab.spec(i, 8, "clamp")) for i in some]),
        "64 specs": lambda: speed(engine, [lab.request(i, lab.spec(i), tokens=32) for i in range(WIDE)]),
        "1 spec": lambda: speed(engine, [lab.request(i, one, tokens=32) for i in range(WIDE)]),
    }


def of_batch(m: Rounds) -> list[Ratio]:
    """Lines of the table about a batch."""
    return [
        Ratio("16 requests, 16 specs ÷ unsteered", m.ratio("16 specs", "unsteered"), 0.95),
        Ratio("64 specs ÷ 1 spec, 64 requests", m.ratio("64 specs", "1 spec"), 0.97),
        Ratio("8 features ÷ 1 feature per request", m.ratio("8 features", "16 specs"), 0.98),
        Ratio("8 clamped features each ÷ unsteered", m.ratio("8 clamped", "unsteered"), None),
        Ratio("idle tap ÷ no tap", m.ratio("unsteered", "no tap"), 0.99),
        Ratio("16 streams, tokens/s", m.median("unsteered"), None),
    ]


async def batches(lab: Lab, rounds: int) -> list[Ratio]:
    """The embedded engine: cost of steering in a batch, and comparison with `generate()`."""
    engine, bare = lab.engine(live=WIDE), lab.engine(hooks=False, live=WIDE)
    plain = [lab.request(i, {}) for i in range(STREAMS)]

    async def book(streams: int) -> float:
        return generate(lab.model, plain[:streams])

    cases = {
        "no tap": lambda: speed(bare, plain),
        **batch(lab, engine),
        "alone": lambda: speed(engine, plain[:1]),
        "generate, batch of 16": lambda: book(STREAMS),
        "generate, alone": lambda: book(1),
    }
    m = await by_turns(cases, rounds)
    for each in (engine, bare):
        await each.close()
    return [
        *of_batch(m),
        Ratio("1 stream, tokens/s", m.median("alone"), None),
        Ratio("16 streams ÷ generate() on a static batch", m.ratio("unsteered", "generate, batch of 16"), 0.8),
        Ratio("1 stream ÷ generate()", m.ratio("alone", "generate, alone"), 0.9),
    ]


async def vllm_batches(lab: Lab, rounds: int, more: dict[str, Any]) -> list[Ratio]:
    """vLLM with our plugin, and the same vLLM without it."""
    from server.engines.vllm.engine import VLLMEngine

    with tempfile.TemporaryDirectory() as folder:
        lab.save(Path(folder))
        kind = {"dtype": "float32" if lab.model.device.type == "cpu" else "bfloat16"}
        path, arguments = f"{folder}/model", VLLM | kind | more
        engine = await VLLMEngine.load(
            path, folders={lab.hook: Path(folder) / "r1"}, revision="r1", queue=256, arguments=arguments
        )
        bare = await VLLMEngine.load(path, folders={}, revision="r1", queue=256, arguments=arguments)
        plain = [lab.request(i, {}) for i in range(STREAMS)]
        m = await by_turns({"no tap": lambda: speed(bare, plain), **batch(lab, engine)}, rounds)
        for each in (engine, bare):
            await each.close()
    return of_batch(m)


async def turns(lab: Lab, rounds: int) -> list[Ratio]:
    """Time to the first token of a fifth turn: steered, unsteered, and without the prefix cache."""
    cached, anew = lab.engine(prefix_mb=512), lab.engine()
    count = iter(range(10**9))

    async def first(engine: TransformersEngine, spec: Spec) -> float:
        number, ids, took = next(count), [0], 0.0
        for turn in range(5):
            ids += [2, *((5 + (number * 31 + turn * 17 + i * 11) % 3000) for i in range(48)), 4, 3]
            wanted = lab.request(number, spec, tokens=48)
            wanted = replace(wanted, ids=tuple(ids), steered=(True,) * len(ids))
            start, spoken = time.perf_counter(), []
            async for piece in engine.generate(wanted):
                if not spoken:
                    took = time.perf_counter() - start
                spoken += piece.ids
            ids += [*spoken, 4]
        return took

    m = await by_turns(
        {
            "steered": lambda: first(cached, lab.spec(1)),
            "unsteered": lambda: first(cached, {}),
            "anew": lambda: first(anew, lab.spec(1)),
        },
        rounds,
    )
    await cached.close()
    await anew.close()
    return [
        Ratio("turn 5, first token: steered ÷ unsteered", m.ratio("steered", "unsteered"), 1.1, at_most=True),
        Ratio("turn 5, first token: steered ÷ computed anew", m.ratio("steered", "anew"), 0.4, at_most=True),
        Ratio("turn 5, first token, steered, ms", m.median("steered", 1000), None),
    ]


async def measured(lab: Lab, args: argparse.Namespace) -> list[Ratio]:
    """Return all requested lines."""
    if args.engine == "vllm":
        return await vllm_batches(lab, args.rounds, {"enforce_eager": args.eager})
    parts = {"batches": batches, "turns": turns}
    return [r for n, part in parts.items() if args.only in (None, n) for r in await part(lab, args.rounds)]


def main() -> None:
    """Print the table; `--json` writes it as well."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--model", choices=["embedded", *SHAPES], default="embedded")
    p.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    p.add_argument("--device", default="cpu", help="cuda where there is one")
    p.add_argument("--eager", action="store_true", help="vLLM without torch.compile")
    p.add_argument("--rounds", type=int, default=25)
    p.add_argument("--only", choices=["batches", "turns"])
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    rows = asyncio.run(measured(Lab.named(args.model, args.bundle, args.device), args))
    show(f"{args.engine}, {args.model}, median of {args.rounds}", rows, args.json)


if __name__ == "__main__":
    main()
