"""Effect of training on reply speed: `python -m bench.background` runs sixteen streams with an update training and
stopped.

A real `tiller serve` with its trainer gets a long update. While it trains, its process is stopped and continued by
turns (SIGSTOP, SIGCONT), and the same sixteen streams are counted each time, so both cases share a server, a machine
and a minute. It runs twice: with a core to spare (the server and this client on one core, the update on another), and
with all of them on all cores, without pinning. Linux only, as it reads /proc and pins processes.
"""

import argparse
import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.lab import Case, Ratio, Rounds, by_turns, show
from bench.live_server import serving
from bench.overhead import over_http
from bench.update.learning import world

GOAL = 0.95
STEPS = 100_000


def children(pid: int) -> list[int]:
    """Child processes of a process."""
    found = [f.read_text() for f in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in found for child in text.split()]


def below(pid: int) -> list[int]:
    """All descendants of a process."""
    return [p for child in children(pid) for p in (child, *below(child))]


def threads(pid: int) -> Iterator[int]:
    """Threads of a process; each has its own affinity."""
    return (int(p.name) for p in Path(f"/proc/{pid}/task").iterdir())


def pin(pid: int, cores: set[int]) -> None:
    """Restrict a process to these cores."""
    for thread in threads(pid):
        os.sched_setaffinity(thread, cores)


@contextmanager
def update_of(url: str, texts: Path) -> Iterator[int]:
    """Start a long update and yield its process; it is cancelled when the context ends."""
    order = {"type": "sae_update", "config": {"text": [str(texts)], "steps": STEPS}}
    job = httpx.post(f"{url}/v1/jobs", json=order).raise_for_status().json()["id"]
    try:
        _wait_until_it_trains(url, job)
        yield _process_of(job)
    finally:
        httpx.post(f"{url}/v1/jobs/{job}/cancel", timeout=30)


def _wait_until_it_trains(url: str, job: str) -> None:
    for _ in range(1200):
        now = httpx.get(f"{url}/v1/jobs/{job}", timeout=30).json()
        if now["metrics"].get("step"):
            return
        if now["state"] in ("failed", "succeeded"):
            raise RuntimeError(f"the update {now['state']}: {now['error']}")
        time.sleep(0.5)
    raise RuntimeError("the update did not begin to train within ten minutes")


def _process_of(job: str) -> int:
    return next(p for p in below(os.getpid()) if job in Path(f"/proc/{p}/cmdline").read_text())


async def compare(url: str, preset: str, process: int, rounds: int) -> Rounds:
    """Tokens per second of the streams, by turns."""

    async def streams(sent: int) -> float:
        os.killpg(process, sent)
        await asyncio.sleep(0.2)
        return await over_http(url, stream=True, preset=preset)

    cases: dict[str, Case] = {
        "training": lambda: streams(signal.SIGCONT),
        "stopped": lambda: streams(signal.SIGSTOP),
    }
    try:
        return await by_turns(cases, rounds)
    finally:
        os.killpg(process, signal.SIGCONT)


def measure(bundle: Path, preset: str, rounds: int, texts: Path, *, spare: bool) -> Ratio:
    """One of the two comparisons."""
    cores = sorted(os.sched_getaffinity(0))
    with serving(bundle) as url, update_of(url, texts) as process:
        if spare:
            for pid in (os.getpid(), *below(os.getpid())):
                pin(pid, {cores[-1]} if pid == process else set(cores[:-1]))
        found = asyncio.run(compare(url, preset, process, rounds))
        if spare:
            pin(os.getpid(), set(cores))
    what = "a core to spare" if spare else "all on all cores"
    return Ratio(f"{what}: tokens/s while it trains ÷ while it is stopped", found.ratio("training", "stopped"), GOAL)


def main() -> None:
    """Print the table; `--json` writes it as well."""
    import json
    import tempfile

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path("sae_weights/harbor"))
    p.add_argument("--preset", default="harbor@golden-gate")
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed: one of them is the spare one")
    with tempfile.TemporaryDirectory() as folder:
        texts, chats = Path(folder) / "new.jsonl", world(51, new=True)
        texts.write_text("".join(json.dumps({"messages": next(chats)}) + "\n" for _ in range(2000)))
        rows = [measure(args.bundle, args.preset, args.rounds, texts, spare=spare) for spare in (True, False)]
    show(f"Training beside serving, median of {args.rounds}", rows, args.json)


if __name__ == "__main__":
    main()
