"""Crash safety: `python -m bench.update.kills` kills a server, its trainer or its job with `kill -9` at random moments of an
update.

After each kill, every published revision has to open, with every file equal to its SHA-256; the revision that the store
names as served has to be one of them; a server (the same one, or the next on the same data) has to answer a chat with a
steered reply from a complete revision. A job has to resume, or to fail with a sentence that gives the reason.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from bench.background import below
from bench.live_server import start_server
from bench.update.learning import world
from steering.catalogue.revisions import Revisions

console = Console(width=120)
TARGETS = ("server", "trainer", "job")


@dataclass
class Served:
    """A server on one data directory, restarted whenever it has ended."""

    bundle: Path
    data: Path
    process: "subprocess.Popen[bytes] | None" = None
    url: str = ""

    def up(self) -> None:
        """Start it if needed, and wait until it answers."""
        if self.process and self.process.poll() is None:
            return
        self.process, self.url = start_server(self.bundle, self.data)

    def pid(self, target: str) -> int | None:
        """Process id of the server, of its trainer, or of the running job; None if there is none."""
        assert self.process
        if target == "server":
            return self.process.pid
        words = {"trainer": "\0trainer\0", "job": "\0job\0"}[target]
        return next((p for p in below(self.process.pid) if words in _command(p)), None)

    def job(self, text: Path, steps: int) -> str:
        """Queue an update."""
        order = {"type": "sae_update", "config": {"text": [str(text)], "steps": steps, "append": 16}}
        return httpx.post(f"{self.url}/v1/jobs", json=order, timeout=30).raise_for_status().json()["id"]

    def state(self, job: str) -> dict:
        """State of a job."""
        return httpx.get(f"{self.url}/v1/jobs/{job}", timeout=30).raise_for_status().json()

    def speaks(self) -> str:
        """Return the revision of a steered reply."""
        body = {
            "model": f"{self.bundle.name}@golden-gate",
            "messages": [{"role": "user", "content": "Hello!"}],
            "max_tokens": 8,
        }
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60).raise_for_status().json()
        assert answer["choices"][0]["message"]["content"].strip()
        return answer["steering"]["revision"]


@dataclass
class Record:
    """Results of the kills."""

    killed: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def find_damage(served: Served) -> list[str]:
    """Return all violations of the conditions above."""
    revisions = Revisions(served.bundle, served.data / "revisions" / served.bundle.name)
    wrong = []
    for name in revisions.names():
        try:
            revisions.open(name)
            revisions.moments(name)
        except Exception as error:  # any exception is a finding
            wrong.append(f"{name}: {error}")
    if (speaks := served.speaks()) not in revisions.names():
        wrong.append(f"a reply is of {speaks!r}, which is not published")
    return wrong


def run(bundle: Path, kills: int, steps: int, longest: float, seed: int) -> Record:
    """Kill that many times; return the results."""
    draw, found = random.Random(seed), Record()
    with tempfile.TemporaryDirectory() as folder:
        text, chats = Path(folder) / "new.jsonl", world(61, new=True)
        text.write_text("".join(json.dumps({"messages": next(chats)}) + "\n" for _ in range(400)))
        served, job = Served(bundle, Path(folder) / "data"), ""
        try:
            while found.killed.total() < kills or not _ended(served, job, found):
                served.up()
                if not job or (found.killed.total() < kills and _ended(served, job, found)):
                    job = served.job(text, steps)
                if found.killed.total() == kills:
                    time.sleep(1)
                    continue
                time.sleep(draw.uniform(0, longest))
                target = draw.choice(TARGETS)
                if pid := served.pid(target):
                    os.kill(pid, signal.SIGKILL)
                    found.killed[target] += 1
                    if target == "server" and served.process:
                        served.process.wait()
                    served.up()
                    found.broken += find_damage(served)
                    console.print(f"{found.killed.total():>3} killed the {target}; {served.state(job)['state']}")
        finally:
            if served.process and served.process.poll() is None:
                served.process.terminate()
                served.process.wait(60)
    return found


def _ended(served: Served, job: str, found: Record) -> bool:
    if not job:
        return False
    now = served.state(job)
    if now["state"] in ("queued", "running"):
        return False
    if now["state"] == "failed" and not now["error"]:
        found.broken.append(f"{job} failed without saying why")
    kept = "published" if now["result"].get("published") else "kept aside" if now["result"] else now["error"]
    found.ends[f"{now['state']}: {kept}"] += 1
    return True


def main() -> None:
    """Print the results; rc 1 if anything was damaged."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path("sae_weights/harbor"))
    p.add_argument("--kills", type=int, default=20)
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--longest", type=float, default=30.0, help="seconds between two kills, at most")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    found = run(args.bundle, args.kills, args.steps, args.longest, args.seed)
    table = Table("", "")
    table.add_row("killed", ", ".join(f"{n} × {what}" for what, n in sorted(found.killed.items())))
    for what, n in found.ends.items():
        table.add_row("jobs ended", f"{n} × {what}")
    table.add_row("broken", "; ".join(found.broken) or "nothing")
    console.print(table)
    raise SystemExit(1 if found.broken else 0)


if __name__ == "__main__":
    main()
