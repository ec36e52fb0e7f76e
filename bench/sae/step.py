"""Cost of a training step: `python -m bench.sae.step --device cuda` times BatchTopK ÷ the encoder's bare matrix
product.

The rows are random, as their meaning does not change the cost of a step. The lower bound is one product of the batch
with the encoder, in the dtype that a step uses for it; a step has at least three of its size, forward and backward.
Both run by turns.
"""

import argparse
import asyncio
import time
from pathlib import Path

import torch
from torch import Tensor

from bench.lab import Case, Ratio, by_turns, show
from steering.train.objectives import BatchTopK
from steering.train.trainer import Trainer, TrainingRecipe

STEPS = 10


def cases(training: Trainer, rows: Tensor) -> dict[str, Case]:
    """Tokens per second of a step, and of the product."""
    weights, kind = training.weights.W_dec, torch.bfloat16 if rows.is_cuda else torch.float32
    encoder, held = weights.detach().T.to(kind).contiguous(), rows.to(kind)
    return {"step": _case(lambda: training.step(rows), rows), "product": _case(lambda: held @ encoder, rows)}


def _case(act, rows: Tensor) -> Case:  # noqa: ANN001 - any call
    async def run() -> float:
        start = _now(rows)
        for _ in range(STEPS):
            act()
        return STEPS * len(rows) / (_now(rows) - start)

    return run


def _now(rows: Tensor) -> float:
    if rows.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Print the table; `--json` writes it as well."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cpu")
    p.add_argument("--d", type=int, default=768)
    p.add_argument("--features", type=int, default=16_384)
    p.add_argument("--batch", type=int, default=1024, help="tokens a step")
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    rows = torch.randn(args.batch, args.d, generator=torch.Generator().manual_seed(0)).to(args.device)
    recipe = TrainingRecipe(BatchTopK(k=32), d_sae=args.features, steps=10**6)
    found = asyncio.run(by_turns(cases(Trainer.start(recipe, rows), rows), args.rounds))
    lines = [
        Ratio("step, tokens/s", found.median("step"), None),
        Ratio("encoder's product, tokens/s", found.median("product"), None),
        Ratio("step ÷ product", found.ratio("step", "product"), None),
    ]
    show(f"d {args.d}, {args.features} features, {args.batch} tokens a step, {args.device}", lines, args.json)


if __name__ == "__main__":
    main()
