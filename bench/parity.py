"""Parity of GPU and CPU: `python -m bench.parity --device cuda` compares greedy replies to the personas' own prompts.

A reply is compared with the CPU's in float32, and with itself in a batch with fifteen others, which changes the order
in which a GPU adds. Where two replies diverge, the table has the margin by which the CPU preferred its token: where
that is near zero, both are right.
"""

import argparse
import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from server.engines.base import Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.spec import SteeringSpec

TOKENS = 64
COMPANY = 16


@dataclass(frozen=True)
class Said:
    """A greedy reply, with the margin in nats of each of its tokens over the next best."""

    ids: tuple[int, ...]
    margins: tuple[float, ...]


def prompts_with_and_without(engine: TransformersEngine, bundle: Bundle) -> list[Generation]:
    """Each persona's own prompts, and the same without steering."""
    catalogue, found = Catalogue([bundle]), []
    for preset in bundle.presets:
        for spec in (preset.steering, SteeringSpec()):
            edits = catalogue.resolve(spec).edits
            for prompt in preset.starter_prompts:
                chat = engine.encode_chat([{"role": "user", "content": prompt}])
                wanted = Generation(chat.ids, chat.assistant, True, edits, spec.fingerprint)
                greedy = Sampling(max_tokens=TOKENS, temperature=0, ignore_eos=True, logprobs=2)
                found.append(replace(wanted, sampling=greedy))
    return found


async def generate(engine: TransformersEngine, wanted: Generation) -> Said:
    """Return the engine's reply."""
    pieces = [p async for p in engine.generate(wanted)]
    tops = [t.top for p in pieces for t in p.logprobs]
    ids = tuple(i for p in pieces for i in p.ids)
    gaps = ((top[0].logprob or 0.0) - (top[1].logprob or 0.0) for top in tops)  # only a prompt's first token has none
    return Said(ids, tuple(gaps))


async def together(engine: TransformersEngine, wanted: list[Generation], at_once: int) -> list[Said]:
    """Return all replies, with that many requests at once."""
    found: list[Said] = []
    for start in range(0, len(wanted), at_once):
        found += await asyncio.gather(*(generate(engine, w) for w in wanted[start : start + at_once]))
    return found


def parted(theirs: list[Said], ours: list[Said]) -> list[float]:
    """For replies that diverge, the reference's margin in nats at the first different token."""
    found = []
    for a, b in zip(theirs, ours, strict=True):
        at = next((i for i, (x, y) in enumerate(zip(a.ids, b.ids, strict=True)) if x != y), None)
        if at is not None:
            found.append(a.margins[at])
    return found


async def measured(bundle: Bundle, device: str, dtypes: list[str], most: int) -> list[tuple[str, int, list[float]]]:
    """For each comparison, the number of replies and the margins of those that diverge."""

    def load(place: str, kind: str) -> TransformersEngine:
        hooks = [bundle.info.hook]
        return TransformersEngine.load(bundle.model_path, hooks=hooks, device=place, dtype=kind, prefix_mb=0)

    book = load("cpu", "float32")
    wanted = prompts_with_and_without(book, bundle)[:most]
    reference, rows = await together(book, wanted, 1), []
    rows.append(
        ("CPU: among fifteen others ÷ alone", len(wanted), parted(reference, await together(book, wanted, COMPANY)))
    )
    await book.close()
    for kind in dtypes:
        engine = load(device, kind)
        alone = await together(engine, wanted, 1)
        rows.append((f"{device}, {kind}, alone ÷ CPU", len(wanted), parted(reference, alone)))
        company = await together(engine, wanted, COMPANY)
        rows.append((f"{device}, {kind}: among fifteen others ÷ alone", len(wanted), parted(alone, company)))
        again = await together(engine, wanted, COMPANY)
        rows.append((f"{device}, {kind}: the same again ÷ before", len(wanted), parted(company, again)))
        await engine.close()
    return rows


def main() -> None:
    """Print the table; rc 1 if replies diverge where the margin is more than rounding."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path("sae_weights/harbor"))
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    p.add_argument("--most", type=int, default=1000, help="only the first so many prompts")
    args = p.parse_args()
    torch.set_num_threads(1)
    rows = asyncio.run(measured(Bundle.open(args.bundle), args.device, args.dtypes, args.most))
    table = Table("what", "equal", "margin where they part, nats: median, most")
    for what, count, margins in rows:
        told = f"{median(margins):.4f}, {max(margins):.4f}" if margins else ""
        table.add_row(what, f"{count - len(margins)} of {count}", told)
    Console(width=110).print(table)
    raise SystemExit(any(m > 1e-3 for what, _, margins in rows if "float32" in what or "CPU:" in what for m in margins))


if __name__ == "__main__":
    main()
