"""Effect of a client that cycles through specs on others: `python -m bench.cycling` runs one beside four users.

A real `tiller serve`. Four users chat with a persona, one reply after another; beside them a neighbour keeps eight
replies running: in one period always with the same spec, in the next with another one for each reply (a thousand in
all, each computed anew, so that none of them is found in a cache). Periods alternate. What is compared is the users'
time to first token and their inter-token time, 95th percentiles; the goal is a ratio of at most 1.2. The neighbour has
no limits here; a second figure is how many different specs a key with the role `user` may use per hour.
"""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from bench.live_server import client_of_server
from server.auth.keys import DEFAULT_LIMITS

CHAT = "/v1/chat/completions"
PEOPLE, BESIDE = 4, 8
GOAL = 1.2
console = Console(width=110)


@dataclass
class Waits:
    """Times in seconds that users waited."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)

    def p95(self) -> tuple[float, float]:
        """95th percentiles of the time to first token and of the time between pieces, in ms."""
        return tuple(1e3 * statistics.quantiles(v, n=20)[-1] for v in (self.first, self.between))  # type: ignore[return-value]


async def person(client: httpx.AsyncClient, model: str, stop: asyncio.Event, waits: Waits, seed: int) -> None:
    """Chat until stopped."""
    for n in itertools.count():
        body = {
            "model": f"{model}@golden-gate",
            "messages": [{"role": "user", "content": f"Tell me story number {seed * 1000 + n}."}],
            "max_tokens": 24,
            "ignore_eos": True,
            "stream": True,
        }
        began = last = time.perf_counter()
        told = False
        async with client.stream("POST", CHAT, json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    now = time.perf_counter()
                    (waits.between if told else waits.first).append(now - (last if told else began))
                    told, last = True, now
        if stop.is_set():
            return


async def neighbour(client: httpx.AsyncClient, model: str, stop: asyncio.Event, specs: Iterator[dict]) -> int:
    """Request reply after reply, each with the next spec; return how many."""
    n = 0
    while not stop.is_set():
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "What should I do this weekend?"}],
            "steering": next(specs),
            "max_tokens": 24,
            "ignore_eos": True,
        }
        (await client.post(CHAT, json=body)).raise_for_status()
        n += 1
    return n


def always(features: list[str]) -> Iterator[dict]:
    """One spec, repeatedly."""
    return itertools.repeat({"features": [{"id": f, "strength": 0.2} for f in features[:3]], "scope": "all"})


def other_each_time(features: list[str], seed: int) -> Iterator[dict]:
    """A new spec each time."""
    draw = random.Random(seed)
    while True:
        yield {
            "features": [{"id": f, "strength": draw.uniform(-0.3, 0.3)} for f in draw.sample(features, 3)],
            "scope": "all",
        }


async def stretch(client: httpx.AsyncClient, model: str, specs: list[Iterator[dict]], seconds: float, seed: int) -> tuple[Waits, int]:  # fmt: skip
    """Run users and the neighbour for a period."""
    stop, waits = asyncio.Event(), Waits()
    people = [person(client, model, stop, waits, seed + i) for i in range(PEOPLE)]
    beside = [neighbour(client, model, stop, each) for each in specs]

    async def end() -> int:
        await asyncio.sleep(seconds)
        stop.set()
        return 0

    done = await asyncio.gather(*people, *beside, end())
    return waits, sum(n for n in done[PEOPLE:-1] if n)


async def measure(bundle: Path, rounds: int, seconds: float) -> tuple[dict[str, list[tuple[float, float]]], int]:
    """Return 95th percentiles of each kind of period, and how many specs were used."""
    found: dict[str, list[tuple[float, float]]] = {"the same": [], "another each time": []}
    tried = 0
    with tempfile.TemporaryDirectory() as folder:
        async with client_of_server(bundle, Path(folder)) as client:
            model = (await client.get("/v1/models")).json()["data"][0]["id"]
            listed = (await client.get("/v1/features", params={"limit": 200})).json()["data"]
            features = [f["id"] for f in listed]
            for n in range(rounds + 1):
                for kind in found if n % 2 else reversed(found):
                    same = kind == "the same"
                    specs = [
                        always(features) if same else other_each_time(features, 100 * n + i) for i in range(BESIDE)
                    ]
                    waits, asked = await stretch(client, model, specs, seconds, 10 * n)
                    if n:  # the first is a warm-up
                        found[kind].append(waits.p95())
                        tried += 0 if same else asked
    return found, tried


def main() -> None:
    """Print both; rc 1 if the goal is missed."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path("sae_weights/harbor"))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=12.0)
    args = p.parse_args()
    found, tried = asyncio.run(measure(args.bundle, args.rounds, args.seconds))
    table = Table("others' 95th percentile, ms", *found, "ratio (least … most)")
    fine = True
    for i, name in enumerate(("first token", "between pieces")):
        same, other = ([row[i] for row in rows] for rows in found.values())
        ratios = [b / a for a, b in zip(same, other, strict=True)]
        ratio = statistics.median(ratios)
        fine &= ratio <= GOAL
        figures = f"{ratio:.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
        table.add_row(name, f"{statistics.median(same):.1f}", f"{statistics.median(other):.1f}", figures)
    console.print(table)
    console.print(
        f"{tried} different specs were tried; a key with the role 'user' gets {DEFAULT_LIMITS['user'].specs} an hour"
    )
    console.print(f"goal: {GOAL} and less: {'passed' if fine else 'missed'}")
    raise SystemExit(0 if fine else 1)


if __name__ == "__main__":
    main()
