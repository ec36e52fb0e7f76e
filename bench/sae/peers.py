"""Our SAE trainer beside SAELens, dictionary_learning and sparsify, on the same activations: `make bench-sae-peers`.

    small  d 256, m 2,048: the embedded model's stream over its corpus
    large  d 768, m 16,384: synthetic, sparse sums of 8,192 directions

Each trains in a process of its own (`bench.sae.trainers`) and gets its batches by turns, so that no two run at once and
all have all cores. The files that each library writes are read by `steering.formats`, get the one threshold at which L0
on held-out rows is k (or the k largest of each token, where that explains more), and are evaluated.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from bench.lab import Estimate, Lab, Ratio, Rounds, show
from bench.sae.trainers import FOUND_IN, SIZES, K
from server.sae.corpus import read_texts, tokenize_texts
from steering.evaluate.sae_metrics import SaeMetrics, measure_sae
from steering.formats import read_sae
from steering.model.activations import activations, padded_batches
from steering.sae import SAE

HELD_OUT = 16_384
GOALS = {"small": 1.3, "large": 3.0}
"""Goal: how many times as fast as the fastest of the others."""
TURN = {"small": 20, "large": 3}
"""Steps of one turn."""


# Training data


def stream(bundle: Path) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
    """The embedded model's stream over its corpus: of held-out texts, and of the others."""
    lab = Lab.named("embedded", str(bundle))
    texts = list(tokenize_texts(lab.tokenizer, read_texts(bundle / "corpus.jsonl.xz"), longest=512))
    random.Random(0).shuffle(texts)

    def of(some: list[list[int]]) -> Iterator[Tensor]:
        return activations(lab.model, padded_batches(some, batch=32, longest=512, pad=0), lab.hook)

    return of(texts[:250]), of(texts[250:])


def planted(d: int, *, seed: int) -> Iterator[Tensor]:
    """Endless sums of 24 of 8,192 directions, some of them twenty times as frequent as others, around a mean."""
    fixed, g = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(8192, d, generator=fixed), dim=1)
    mean, frequency = torch.randn(d, generator=fixed) / 8, (torch.arange(8192) + 100.0) ** -0.7
    while True:
        on = torch.multinomial(frequency.expand(1024, -1), 24, generator=g)
        strengths = 0.5 + torch.rand(on.shape, generator=g)
        sums = torch.nn.functional.embedding_bag(on, directions, per_sample_weights=strengths, mode="sum")
        yield sums + mean + 0.02 * torch.randn(sums.shape, generator=g)


def write(parts: Iterator[Tensor], rows: int, file: Path) -> Tensor:
    """Take rows, shuffle them, and write them in the order in which they are read: batch after batch."""
    held: list[Tensor] = []
    while sum(map(len, held)) < rows and (part := next(parts, None)) is not None:
        held.append(part)
    pool = torch.cat(held)
    pool = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))[:rows]]
    pool.numpy().tofile(file)
    return pool


class Contender:
    """Process of a trainer, which waits for its turn."""

    def __init__(self, name: str, size: str, steps: int, folder: Path, waiting: dict[str, str]) -> None:
        self.name, self._steps, self._size = name, TURN[size], SIZES[size]
        self.out = folder / name / FOUND_IN[name]
        self._log = (folder / f"{name}.log").open("w+")
        work = [name, size, str(steps), str(folder)]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "bench.sae.trainers", *work],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | waiting,
        )
        self._said()  # ready

    def turn(self) -> float:
        """Tokens per second of one turn."""
        self._ask(self._steps)
        return self._steps * self._size.rows / float(self._said())

    def end(self) -> dict[str, float]:
        """Let it finish; return its memory."""
        self._ask(10**9)
        said = json.loads(self._said())
        self._process.wait()
        return said

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    def _ask(self, steps: int) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()

    def _said(self) -> str:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return line
        self._log.seek(0)
        raise RuntimeError(f"{self.name} ended: {self._log.read()[-2000:]}")


@dataclass(frozen=True)
class Result:
    """Result of one trainer."""

    measures: SaeMetrics
    memory: dict[str, float]

    @property
    def explains(self) -> float:
        """Explained variance."""
        return self.measures.explained_variance


@dataclass(frozen=True, eq=False)
class PerToken(SAE):
    """An SAE that keeps the K largest activations of each token."""

    def encode(self, x: Tensor) -> Tensor:
        """Return those activations."""
        kept = (x @ self.W_enc + self.b_enc).topk(K, dim=1)
        return torch.zeros(len(x), self.d_sae).scatter_(1, kept.indices, kept.values.relu())


def judged(out: Path, held_out: Tensor) -> SaeMetrics:
    """Return the explained variance of a saved SAE with K features per token."""
    sae = read_sae(out).sae
    ways = (sae.calibrated(held_out, K), PerToken(*(getattr(sae, f.name) for f in fields(sae))))
    return max((measure_sae(way, held_out.split(2048)) for way in ways), key=lambda m: m.explained_variance)


def compete(
    size: str, steps: int, bundle: Path, names: list[str], waiting: dict[str, str]
) -> tuple[Rounds, dict[str, Result]]:
    """Train all by turns, the first of which is a warm-up, and evaluate the results."""
    s = SIZES[size]
    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as stack:
        folder = Path(made)
        held, rest = stream(bundle) if size == "small" else (planted(s.d, seed=1), planted(s.d, seed=2))
        held_out = write(held, HELD_OUT, folder / "held_out")
        write(rest, (steps + 1) * s.rows, folder / "rows")
        everybody = [Contender(n, size, steps, folder, waiting) for n in names]
        for each in everybody:
            stack.callback(each.stop)
        values: dict[str, list[float]] = {n: [] for n in names}
        order = random.Random(0)
        for number in range((steps - 1) // TURN[size]):
            for each in order.sample(everybody, len(everybody)):
                speed = each.turn()
                if number:
                    values[each.name].append(speed)
        memory = {each.name: each.end() for each in everybody}
        return Rounds(values), {e.name: Result(judged(e.out, held_out), memory[e.name]) for e in everybody}


def table(size: str, steps: int, bundle: Path, names: list[str], waiting: dict[str, str]) -> list[Ratio]:
    """Lines of the table for one size."""
    rounds, found = compete(size, steps, bundle, names, waiting)
    others = [n for n in names if n != "ours"]
    us, them = found["ours"], [found[n] for n in others]
    lines = [
        Ratio(
            "tokens/s, ours ÷ the fastest",
            rounds.ratio("ours", max(others, key=lambda n: rounds.median(n).value)),
            GOALS[size],
        ),
        Ratio("explained variance, ours − the best", _one(us.explains - max(t.explains for t in them)), 0.0),
        Ratio("dead on held-out rows, ours", _one(us.measures.dead), 0.01, at_most=True),
    ]
    for what, name in (("peak memory", "peak"), ("of training", "training")):
        ratio = us.memory[name] / min(t.memory[name] for t in them)
        lines.append(Ratio(f"{what}, ours ÷ the least", _one(ratio), 1.0, at_most=True))
    for n in names:
        m = found[n].measures
        lines += [
            Ratio(f"{n}: tokens/s", rounds.median(n), None),
            Ratio(f"{n}: explained variance at L0 {m.l0:.1f}", _one(m.explained_variance), None),
            Ratio(f"{n}: dead", _one(m.dead), None),
            *(Ratio(f"{n}: MiB, {what}", _one(mib), None) for what, mib in found[n].memory.items()),
        ]
    return [Ratio(f"{size}: {r.what}", r.found, r.goal, r.at_most) for r in lines]


def _one(value: float) -> Estimate:
    return Estimate(value, value, value)


def main() -> None:
    """Print the table; `--json` writes it as well."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path("sae_weights/harbor"))
    p.add_argument("--size", choices=SIZES, action="append", help="all, if none is given")
    p.add_argument("--steps", type=int, help="of each; 201 at the small size, 31 at the large")
    p.add_argument("--only", action="append", choices=FOUND_IN, help="beside ours")
    p.add_argument("--shared", action="store_true", help="others use the cores, too: threads then wait asleep")
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    names = [n for n in FOUND_IN if n == "ours" or (find_spec(n) and n in (args.only or FOUND_IN))]
    if len(names) == 1:
        p.error("none of the others is installed: make bench-sae-peers")
    # A spinning thread whose peers' cores are in use by another process makes steps ten times as long.
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"} if args.shared else {}
    steps = {"small": args.steps or 201, "large": args.steps or 31}
    rows = [row for size in args.size or SIZES for row in table(size, steps[size], args.bundle, names, waiting)]
    show(
        f"median of {', '.join(f'{(steps[s] - 1) // TURN[s] - 1} turns' for s in args.size or SIZES)}", rows, args.json
    )


if __name__ == "__main__":
    main()
