"""Effect of a revision switch on streams: `python -m bench.update.swap` chats with a server across publishes and rollbacks.

A real `tiller serve`, in a process of its own, alternates between another revision and a rollback while all streams are
running. A reply counts as mixed if it differs from its revision's reply without other load. Replies are of different
lengths, so that some start at any time, in every window that is evaluated: those around a switch, from the request
until a quarter of a second after its answer, and as many of the same length without one. What is compared is the
longest pause between two pieces of any stream in a window; the goal is that a switch makes it at most 50 ms longer.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import torch
from rich.console import Console
from rich.table import Table

from bench.live_server import client_of_server
from steering.catalogue.feature import Feature
from steering.catalogue.revisions import Revisions

QUESTIONS = ("What should I do this weekend?", "Tell me a story.", "Hello!", "How can I sleep better?")
AFTER = 0.25
GOAL_MS = 50.0
LONGER = "a change makes the longest pause longer by, ms (medians)"


@dataclass
class Told:
    """One streamed reply: its index, its revision, its text, and the times of its pieces."""

    number: int
    revision: str = ""
    text: str = ""
    failed: str = ""
    times: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    """The streams: number, features and duration."""

    client: httpx.AsyncClient
    model: str
    features: list[Feature]
    tokens: int

    async def reply(self, number: int) -> Told:
        """Stream one reply, greedy, of exactly that many tokens."""
        told = Told(number)
        items = [{"id": f.id, "strength": 0.3} for f in self.features[number * 3 : number * 3 + 3]]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": QUESTIONS[number % 4]}],
            "steering": {"features": items},
            "temperature": 0,
            "max_tokens": self.tokens + 11 * number,
            "ignore_eos": True,
            "stream": True,
        }
        try:
            async with self.client.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        self._take(told, json.loads(line[6:]))
                    elif line == "data: [DONE]":
                        return told
            told.failed = "it ended without [DONE]"
        except (httpx.HTTPError, KeyError) as error:
            told.failed = repr(error)
        return told

    def _take(self, told: Told, event: dict) -> None:
        told.revision = event.get("steering", {}).get("revision", told.revision)
        if text := event["choices"][0]["delta"].get("content"):
            told.times.append(time.perf_counter())
            told.text += text

    async def chat(self, number: int, stop: asyncio.Event) -> list[Told]:
        """Stream one reply after another."""
        found = []
        while not stop.is_set():
            found.append(await self.reply(number))
        return found


def turned(revisions: Revisions) -> str:
    """Publish a child of the shipped SAE with all directions moved, as after much training; return its name."""
    parent = revisions.open(revisions.info.revision)
    g = torch.Generator().manual_seed(0)
    rows = parent.sae.W_dec + 0.3 * torch.randn(parent.sae.W_dec.shape, generator=g) / parent.sae.d_in**0.5
    sae = replace(parent.sae, W_dec=torch.nn.functional.normalize(rows, dim=1))
    return revisions.publish(parent, sae).revision


async def measure(bundle: Path, streams: int, swaps: int, tokens: int, pause: float) -> dict[str, float]:
    """Run all streams while revisions change; return figures by name."""
    with tempfile.TemporaryDirectory() as folder:
        revisions = Revisions(bundle, Path(folder) / "revisions" / bundle.name)
        other = turned(revisions)
        opened = revisions.open(revisions.info.revision)
        features = sorted((f for f in opened.features if f.label), key=lambda f: -f.density)[: 3 * streams]
        async with client_of_server(bundle, Path(folder)) as client:
            load, windows, stop = Load(client, opened.info.name, features, tokens), [], asyncio.Event()
            await asyncio.gather(*(load.reply(i) for i in range(streams)))  # warm-up is over
            chats = [asyncio.create_task(load.chat(i, stop)) for i in range(streams)]
            for i in range(2 * swaps):
                await asyncio.sleep(pause)
                started = time.perf_counter()
                path = f"/v1/saes/{other}/activate" if i % 2 == 0 else "/v1/saes/rollback"
                (await client.post(path)).raise_for_status()
                windows.append((started, time.perf_counter() + AFTER))
            await asyncio.sleep(pause)
            stop.set()
            told = [t for chat in await asyncio.gather(*chats) for t in chat]
            alone: dict[tuple[int, str], str] = {}
            for revision in (other, revisions.info.revision):
                (await client.post(f"/v1/saes/{revision}/activate")).raise_for_status()
                for number in range(streams):
                    alone[number, revision] = (await load.reply(number)).text
    return _figures(told, windows, alone) | {"streams": streams, "publishes": swaps, "rollbacks": swaps}


def _figures(
    told: list[Told], windows: list[tuple[float, float]], alone: dict[tuple[int, str], str]
) -> dict[str, float]:
    pauses = [(a, b) for t in told for a, b in zip(t.times, t.times[1:], strict=False)]
    # A window without a switch: as long as the switch took, right before it.
    before = [(start - (end - start), start) for start, end in windows]

    def longest(stretches: list[tuple[float, float]]) -> list[float]:
        return [max(1000 * (b - a) for a, b in pauses if a < end and b > start) for start, end in stretches]

    calm, changing = longest(before), longest(windows)
    return {
        "replies": len(told),
        "failed": sum(bool(t.failed) for t in told),
        "mixed": sum(not t.failed and alone[t.number, t.revision] != t.text for t in told),
        "usual pause, ms": statistics.median(1000 * (b - a) for a, b in pauses),
        "longest pause while nothing changes, ms (median)": statistics.median(calm),
        "longest pause while nothing changes, ms (worst)": max(calm),
        "longest pause while a revision changes, ms (median)": statistics.median(changing),
        "longest pause while a revision changes, ms (worst)": max(changing),
        LONGER: statistics.median(changing) - statistics.median(calm),
        "a change takes, ms": statistics.median(1000 * (end - AFTER - start) for start, end in windows),
    }


def main() -> None:
    """Print the table; with `--json`, write the figures as well."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path("sae_weights/harbor"))
    p.add_argument("--streams", type=int, default=16)
    p.add_argument("--swaps", type=int, default=8, help="publishes, and as many rollbacks")
    p.add_argument("--tokens", type=int, default=160)
    p.add_argument("--pause", type=float, default=1.5, help="seconds between two changes")
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    found = asyncio.run(measure(args.bundle, args.streams, args.swaps, args.tokens, args.pause))
    table = Table("", "")
    for name in ("streams", "publishes", "rollbacks"):
        table.add_row(name, f"{found[name]:.0f}")
    for name, value in found.items():
        if name not in ("streams", "publishes", "rollbacks"):
            table.add_row(name, f"{value:.0f}" if value == int(value) else f"{value:.1f}")
    Console().print(table)
    met = found["failed"] == found["mixed"] == 0 and found[LONGER] <= GOAL_MS
    Console().print(
        f"Goal (none failed or mixed, no pause more than {GOAL_MS:.0f} ms longer): {'met' if met else 'missed'}"
    )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
