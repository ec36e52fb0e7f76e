"""Learning of default doses from feedback: `python -m bench.feedback` simulates users and prints their regret.

Each user has a preferred dose, and likes others the less the farther they are, with noise; they are always shown the
current default. Regret is by how much their preferred dose would have been likelier to be liked. Baselines: never
learning, and a random dose each time. Then twenty users vote through the server's store, without and with a hostile
user among them: no user's default may change because of them.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from server.store.models import StoredVote
from server.store.sqlite.store import SqliteStore
from steering.doses.preference import Range, Vote, preferred_dose

SPAN = Range(0.2, 1.0, 0.6)
STEPS = (10, 20, 40, 80, 160)
Choose = Callable[[list[Vote], random.Random], float]


def chance(dose: float, best: float) -> float:
    """Probability that a user likes a dose."""
    return max(0.05, 0.95 - 2.5 * abs(dose - best))


def regrets(best: float, seed: int, choose: Choose, votes: int) -> list[float]:
    """Regret of one user, vote by vote."""
    draw, said, found = random.Random(seed), list[Vote](), []
    for _ in range(votes):
        dose = choose(said, draw)
        found.append(chance(best, best) - chance(dose, best))
        said.append(Vote(dose, float(draw.random() < chance(dose, best))))
    return found


def curve(choose: Choose, users: int, *, seed: int = 0) -> list[float]:
    """Mean regret per vote, in the interval up to each of STEPS."""
    draw = random.Random(seed)
    all_of = [regrets(draw.uniform(SPAN.low, SPAN.high), seed * 10_000 + i, choose, STEPS[-1]) for i in range(users)]
    starts = (0, *STEPS[:-1])
    return [statistics.mean(r for u in all_of for r in u[a:b]) for a, b in zip(starts, STEPS, strict=True)]


async def through_the_store(folder: Path, users: int, votes: int, *, hostile: int) -> list[float]:
    """Return the honest users' last defaults when all votes go through the server's store, with hostile ones in
    between.
    """
    store, draw = SqliteStore(folder / "tiller.db"), random.Random(0)
    best = {f"u{i}": draw.uniform(SPAN.low, SPAN.high) for i in range(users)}
    theirs = {user: random.Random(user) for user in best}
    try:
        for n in range(votes):
            for user, dose in best.items():
                shown = preferred_dose(_votes(await store.votes(user, "m")), SPAN)
                liked = float(theirs[user].random() < chance(shown, dose))
                await store.add_votes(user, "m", "thumb", [StoredVote("preset:p", shown, liked, 1.0, n)], most=500)
            for i in range(hostile):
                worst = [StoredVote("preset:p", SPAN.high, 1.0, 1.0, n), StoredVote("preset:p", SPAN.low, 0.0, 1.0, n)]
                await store.add_votes(f"mallory{i}", "m", "ab", worst, most=500)
        return [preferred_dose(_votes(await store.votes(user, "m")), SPAN) for user in best]
    finally:
        await store.close()


def _votes(stored: list[StoredVote]) -> list[Vote]:
    return [Vote(v.dose, v.liked, v.weight) for v in stored]


def main() -> None:
    """Print the table; rc 1 if learning does not halve the regret of a random dose, or a hostile user changed a
    default.
    """
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--users", type=int, default=200)
    args = p.parse_args()
    cases: dict[str, Choose] = {
        "learning": lambda said, _: preferred_dose(said, SPAN),
        "never learning": lambda _, __: SPAN.start,
        "a random dose": lambda _, draw: draw.choice(SPAN.grid),
    }
    table = Table("mean regret of a vote, up to vote", *map(str, STEPS))
    found = {name: curve(choose, args.users) for name, choose in cases.items()}
    for name, row in found.items():
        table.add_row(name, *(f"{r:.3f}" for r in row))
    Console().print(table)
    ends = []
    for hostile in (0, 1):
        with tempfile.TemporaryDirectory() as folder:
            ends.append(asyncio.run(through_the_store(Path(folder), 20, 10, hostile=hostile)))
    moved = sum(a != b for a, b in zip(*ends, strict=True))
    Console().print(f"of 20 users, one hostile user's votes moved the defaults of {moved}")
    raise SystemExit(0 if found["learning"][-1] < 0.5 * found["a random dose"][-1] and not moved else 1)


if __name__ == "__main__":
    main()
