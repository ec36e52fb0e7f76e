"""Soak test of a deployment: `python -m bench.soak --minutes 30 --streams 16` with Redis, two replicas and a trainer.

Sixteen streams with changing sliders send greedy requests, and each reply is compared with the same revision's reply
without other load. Meanwhile the SAE's revision changes, Redis is killed and restarted, one process of each kind is
killed, clients disconnect in mid-stream or read slowly. Counted are wrong replies, answers that /openapi.json does not
document, broken connections outside of the seconds after a kill, and each process's memory after its warm-up. Linux
only, as it reads /proc; it kills only processes that it has started, or that those have.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx
import torch
from rich.console import Console
from rich.table import Table

from bench.background import below
from steering.catalogue.revisions import Revisions

console = Console(width=120)
CHAT = "/v1/chat/completions"
PROMPTS = ("Who are you?", "What should I do today?", "Tell me about the sea.", "Give me some advice.")
SETTLING = 30.0
"""Seconds after a kill in which connections may break and answers be 5xx."""
WARM, GROWTH = 45.0, 0.05
"""Warm-up of a process in seconds, and by how much its memory may grow after it."""


@dataclass
class Deployment:
    """Redis and `tiller serve`, each restarted when needed."""

    bundle: Path
    folder: Path
    workers: int
    redis_port: int
    port: int
    redis: "subprocess.Popen[bytes] | None" = None
    server: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Start both, and wait until they answer."""
        self.redis_up()
        words = ["serve", "--no-browser", "--trainer", "--workers", str(self.workers), "--port", str(self.port)]
        words += [
            "--redis-url",
            f"redis://127.0.0.1:{self.redis_port}/0",
            "--drain-seconds",
            "2",
            "--look-seconds",
            "60",
        ]
        words += ["--bundle", str(self.bundle), "--data-dir", str(self.folder / "data"), "--log-level", "warning"]
        with (self.folder / "server.log").open("ab") as log:
            self.server = subprocess.Popen([sys.executable, "-m", "server", *words], stdout=log, stderr=log)
        wait_for(self.ready, 180)

    def ready(self) -> bool:
        """Whether all replicas are ready."""
        assert self.server
        if self.server.poll() is not None:
            raise RuntimeError(f"tiller serve ended: {(self.folder / 'server.log').read_text()[-2000:]}")
        return self.answers() and len(self.pids("replica")) == self.workers

    def answers(self) -> bool:
        """Whether its health check succeeds."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def redis_up(self) -> None:
        """Start Redis with its data."""
        if self.redis and self.redis.poll() is None:
            return
        words = ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1", "--appendonly", "yes"]
        words += ["--save", "", "--dir", str(self.folder)]
        self.redis = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def pids(self, kind: str) -> list[int]:
        """Process ids of a kind: server, replica, trainer, job."""
        if not self.server or self.server.poll() is not None:
            return []
        if kind == "server":
            return [self.server.pid]
        return [p for p in below(self.server.pid) if f"\0{kind}\0" in words_of(p)]

    def down(self) -> None:
        """Stop both."""
        for process in (self.server, self.redis):
            if process and process.poll() is None:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()


@dataclass
class Record:
    """Observations of the run."""

    replies: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stray: Counter[str] = field(default_factory=Counter)
    """Problems outside of the time after a kill."""
    settling: Counter[str] = field(default_factory=Counter)
    done: list[str] = field(default_factory=list)
    memory: dict[tuple[str, int], list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    calm: float = 0.0
    """Time at which the last kill's settling time is over."""

    def trouble(self, what: str) -> None:
        """Record a problem, which may be due to a kill."""
        (self.settling if time.monotonic() < self.calm else self.stray)[what] += 1


def soak(bundle: Path, minutes: float, streams: int, workers: int, seed: int) -> tuple[Record, set[str]]:
    """Run it; return the observations and the documented status codes."""
    found, folder = Record(), Path(tempfile.mkdtemp(prefix="soak-"))
    deployment = Deployment(bundle, folder, workers, free_port(), free_port())
    try:
        deployment.up()
        documented = {
            *httpx.get(f"{deployment.url}/openapi.json", timeout=30).json()["paths"][CHAT]["post"]["responses"]
        }
        known = references(deployment)
        console.print(f"{len(known)} replies are known; {minutes:g} minutes with {streams} streams begin")
        asyncio.run(_soak(deployment, known, found, 60 * minutes, streams, seed))
        if b"Traceback" in (log := (folder / "server.log").read_bytes()):
            found.stray["a traceback in the log"] += log.count(b"Traceback")
            shutil.copy(folder / "server.log", "soak-server.log")
        return found, documented
    finally:
        deployment.down()
        shutil.rmtree(folder, ignore_errors=True)


def references(deployment: Deployment) -> dict[tuple[str, str], str]:
    """Return each revision's reply to each question without other load, by revision and question."""
    revisions = Revisions(deployment.bundle, deployment.folder / "data/revisions" / deployment.bundle.name)
    names, known = [revisions.info.revision], {}
    for n in range(2):
        parent = revisions.open(names[0])
        turned = torch.randn(parent.sae.W_dec.shape, generator=torch.Generator().manual_seed(n))
        rows = torch.nn.functional.normalize(parent.sae.W_dec + 0.02 * turned, dim=1)
        sae = type(parent.sae)(**{**vars(parent.sae), "W_dec": rows})
        names.append(revisions.publish(parent, sae, (), numbers=revisions.numbers_after(names[0]), figures={}).revision)
    for name in (*names[1:], names[0]):
        activate(deployment, name)
        for question in questions(deployment):
            answer = httpx.post(f"{deployment.url}{CHAT}", json=question, timeout=60).raise_for_status().json()
            known[name, json.dumps(question)] = answer["choices"][0]["message"]["content"]
    return known


def questions(deployment: Deployment) -> list[dict]:
    """Return all questions: each prompt plainly, as two personas, and with sliders at several positions."""
    name = deployment.bundle.name
    asked = [{"model": name}, {"model": f"{name}@golden-gate"}, {"model": f"{name}@pirate"}]
    asked += [{"model": name, "steering": {"preset": "ocean", "scale": s}} for s in (0.3, 0.6, 0.9)]
    fixed = {"temperature": 0, "max_tokens": 40}
    return [a | fixed | {"messages": [{"role": "user", "content": p}]} for a in asked for p in PROMPTS]


def activate(deployment: Deployment, revision: str) -> None:
    """Let all replicas serve a revision, and wait until those that can be reached do."""
    httpx.post(f"{deployment.url}/v1/saes/{revision}/activate", timeout=60).raise_for_status()
    seen = 0
    while seen < 12:  # fresh connections reach all replicas
        at = httpx.get(f"{deployment.url}/health", timeout=10).json().get("revision")
        seen = seen + 1 if at == revision else 0
        time.sleep(0.05)


async def _soak(
    deployment: Deployment, known: dict[tuple[str, str], str], found: Record, seconds: float, streams: int, seed: int
) -> None:
    end, asked = time.monotonic() + seconds, questions(deployment)
    talkers = [_talk(deployment, asked, known, found, end, random.Random(f"{seed}-{n}")) for n in range(streams)]
    revisions = sorted({revision for revision, _ in known})
    await asyncio.gather(
        *talkers, _watch(deployment, found, end), _change(deployment, revisions, found, end), _kill(deployment, found, end, seconds)
    )  # fmt: skip


async def _talk(
    deployment: Deployment, asked: list[dict], known: dict[tuple[str, str], str], found: Record, end: float, draw: random.Random
) -> None:  # fmt: skip
    """Act as one user until the end."""
    async with httpx.AsyncClient(base_url=deployment.url, timeout=httpx.Timeout(60)) as http:
        while time.monotonic() < end:
            question, manner = draw.choice(asked), draw.choice(("stream",) * 7 + ("leave", "slow", "whole"))
            try:
                text, revision = await _ask(http, question, manner, found, draw)
            except httpx.HTTPError as error:
                found.trouble(f"connection: {type(error).__name__}")
                await asyncio.sleep(0.5)
                continue
            if text is None:
                continue
            found.replies[manner] += 1
            meant = {r: t for (r, q), t in known.items() if q == json.dumps(question) and (revision in (r, None))}
            if text not in meant.values():
                found.wrong.append(f"{revision} {manner}: {text[:80]!r}, not {next(iter(meant.values()), '')[:80]!r}")


async def _ask(
    http: httpx.AsyncClient, question: dict, manner: str, found: Record, draw: random.Random
) -> tuple[str | None, str | None]:
    """Return the reply and its revision; None for a reply that was not read to its end."""
    if manner == "whole":
        answer = await http.post(CHAT, json=question)
        return await _heard(answer, found) or _read_figure(answer.json())
    said, revision, leave = "", None, draw.randrange(1, 10) if manner == "leave" else None
    async with http.stream("POST", CHAT, json=question | {"stream": True}) as answer:
        if answer.status_code != 200:
            await answer.aread()
            await _heard(answer, found)
            return None, None
        found.statuses["200"] += 1
        n = 0
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                return said, revision
            if not line.startswith("data: "):
                continue
            chunk, n = json.loads(line[6:]), n + 1
            if "error" in chunk:
                found.trouble(f"in a stream: {chunk['error']['code']}")
                return None, None
            revision = chunk.get("steering", {}).get("revision", revision)
            said += "".join(c["delta"].get("content") or "" for c in chunk["choices"])
            if n == leave:
                found.replies["left"] += 1
                return None, None
            if manner == "slow":
                await asyncio.sleep(0.1)
    found.trouble("a stream without an end")
    return None, None


async def _heard(answer: httpx.Response, found: Record) -> tuple[None, None] | None:
    """Count an answer; return its problem if it is no reply."""
    found.statuses[str(answer.status_code)] += 1
    if answer.status_code == 200:
        return None
    try:
        code = answer.json()["error"]["code"]
    except (ValueError, KeyError):
        code = "no JSON"
    if answer.status_code >= 500:
        found.trouble(f"{answer.status_code} {code}")
    await asyncio.sleep(min(2.0, float(answer.headers.get("retry-after", 0.2))))
    return None, None


def _read_figure(told: dict) -> tuple[str, str | None]:
    return told["choices"][0]["message"]["content"], told.get("steering", {}).get("revision")


async def _watch(deployment: Deployment, found: Record, end: float) -> None:
    """Sample the memory of each process."""
    while time.monotonic() < end:
        for kind in ("server", "replica", "trainer"):
            for pid in deployment.pids(kind):
                try:
                    rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                    found.memory[kind, pid].append((time.monotonic(), rss))
                except (OSError, IndexError):
                    pass  # the process has ended
        await asyncio.sleep(2)


async def _change(deployment: Deployment, revisions: list[str], found: Record, end: float) -> None:
    """Serve one revision after the other."""
    async with httpx.AsyncClient(base_url=deployment.url, timeout=30) as http:
        n = 0
        while time.monotonic() < end:
            await asyncio.sleep(7)
            n += 1
            try:
                answer = await http.post(f"/v1/saes/{revisions[n % len(revisions)]}/activate")
                found.replies["revision changed"] += answer.status_code == 200
                if answer.status_code >= 500:
                    found.trouble(f"activate: {answer.status_code}")
            except httpx.HTTPError as error:
                found.trouble(f"activate: {type(error).__name__}")


async def _kill(deployment: Deployment, found: Record, end: float, seconds: float) -> None:
    """Kill Redis, a replica, the trainer, its job and the server: each once, with time to settle in between."""
    acts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("Redis was killed and began again", lambda: _kill_redis(deployment)),
        ("a replica was killed", lambda: _kill_one(deployment, "replica")),
        ("the trainer was killed", lambda: _kill_one(deployment, "trainer")),
        ("a job's process was killed", lambda: _kill_job(deployment)),
        ("the server was killed and began again", lambda: _kill_server(deployment)),
    ]
    pause = seconds / (len(acts) + 1.5)
    for says, act in acts:
        await asyncio.sleep(pause)
        if time.monotonic() > end - 10:
            return
        found.calm = time.monotonic() + 600
        try:
            await act()
            found.done.append(says)
        except Exception as error:  # counted as a finding
            found.stray[f"{says}: {error!r}"] += 1
        found.calm = time.monotonic() + SETTLING / 2
        pause = max(5.0, (end - time.monotonic()) / (len(acts) - len(found.done) + 1.5))


async def _kill_redis(deployment: Deployment) -> None:
    assert deployment.redis
    deployment.redis.kill()
    deployment.redis.wait()
    await asyncio.sleep(3)
    deployment.redis_up()
    await _until(deployment.answers)


async def _kill_one(deployment: Deployment, kind: str) -> None:
    before = deployment.pids(kind)
    os.kill(before[0], signal.SIGKILL)
    await _until(lambda: len({*deployment.pids(kind)} - {before[0]}) == len(before))
    await _until(deployment.answers)


async def _kill_job(deployment: Deployment) -> None:
    name = deployment.bundle.name
    order = {
        "type": "sweep",
        "config": {"feature": f"{name}/0", "strengths": [0.1, 0.2, 0.3, 0.4, 0.5], "prompts": [*PROMPTS]},
    }
    async with httpx.AsyncClient(base_url=deployment.url, timeout=30) as http:
        job = (await http.post("/v1/jobs", json=order)).raise_for_status().json()["id"]
        await _until(lambda: bool(deployment.pids("job")), 90)
        os.kill(deployment.pids("job")[0], signal.SIGKILL)
        for _ in range(120):
            state = (await http.get(f"/v1/jobs/{job}")).json()["state"]
            if state in ("succeeded", "failed"):
                assert state == "succeeded"
                return
            await asyncio.sleep(1)
        raise TimeoutError("the killed job did not end")


async def _kill_server(deployment: Deployment) -> None:
    assert deployment.server
    orphans = below(deployment.server.pid)
    deployment.server.kill()
    deployment.server.wait()
    await _until(lambda: not any("server" in words_of(pid) for pid in orphans))
    await asyncio.to_thread(deployment.up)


async def _until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        if time.monotonic() > end:
            raise TimeoutError("it did not come back")
        await asyncio.sleep(0.2)


def wait_for(true: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition outside of the event loop."""
    asyncio.run(_until(true, seconds))


def words_of(pid: int) -> str:
    """Return a process's command line, or an empty string."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def free_port() -> int:
    """Return an unused port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def grown(points: list[tuple[float, int]]) -> float | None:
    """Return by how much memory grew after the warm-up, as a share; None for a process that ended too early."""
    warm = [rss for at, rss in points if at - points[0][0] > WARM]
    if len(warm) < 9:
        return None
    third = len(warm) // 3
    return median(warm[-third:]) / median(warm[:third]) - 1


def report(found: Record, documented: set[str]) -> bool:
    """Print the observations; return whether all lines pass."""
    strange = {s: n for s, n in found.statuses.items() if s not in documented}
    grew = {
        f"{kind} {pid} ({points[-1][1] / 2**20:.0f} MiB)": grown(points) for (kind, pid), points in found.memory.items()
    }
    memory = {name: g for name, g in grew.items() if g is not None}
    fat = {name: g for name, g in memory.items() if g > GROWTH}
    rows: list[tuple[str, str, bool]] = [
        ("replies", ", ".join(f"{n} {kind}" for kind, n in found.replies.items()), bool(found.replies)),
        ("wrong or mixed", f"{len(found.wrong)} {'; '.join(found.wrong[:3])}", not found.wrong),
        ("done", "; ".join(found.done), len(found.done) == 5),
        ("statuses", ", ".join(f"{n} × {s}" for s, n in sorted(found.statuses.items())), not strange),
        ("not documented", str(strange or "none"), not strange),
        ("trouble after a kill", ", ".join(f"{n} × {w}" for w, n in found.settling.items()) or "none", True),
        ("trouble otherwise", ", ".join(f"{n} × {w}" for w, n in found.stray.items()) or "none", not found.stray),
        ("memory after warm-up", ", ".join(f"{n} {g:+.1%}" for n, g in memory.items()) or "too short to say", not fat),
    ]
    table = Table("", "", "")
    for name, says, well in rows:
        table.add_row(name, says, "ok" if well else "FAILS")
    console.print(table)
    return all(well for *_, well in rows)


def main() -> None:
    """Print the table; rc 1 if a line fails."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path("sae_weights/harbor"))
    p.add_argument("--minutes", type=float, default=30.0)
    p.add_argument("--streams", type=int, default=16)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    found, documented = soak(args.bundle, args.minutes, args.streams, args.workers, args.seed)
    raise SystemExit(0 if report(found, documented) else 1)


if __name__ == "__main__":
    main()
