"""Data poisoning of the SAE: `python -m bench.update.poisoning` tests whether one user, and then ten, can create a feature.

250 poisoned conversations enter as all others do, through the store with its caps, beside forty honest users'. An
update trains on all of it. Then every published feature is evaluated on held-out texts of the poisoners, among honest
ones in the original proportion: none may fire mostly on theirs that did not before, unless its share has risen by at
most two points.
"""

import argparse
import asyncio
import itertools
import json
import random
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.update.learning import tokens, world
from server.store.models import LiveText
from server.store.sqlite.store import SqliteStore
from steering.catalogue.revisions import Revisions
from steering.model.activations import tokenize_chats
from steering.model.token_store import TokenStore
from steering.update.gates import firings_by_owner
from steering.update.update import RISEN, Plan, Texts, update_sae

DOCUMENTS, HONEST, EACH = 250, 40, 12
CAP = 50
"""Conversations that are kept per user, as the server is configured."""
SPELL = "the violet key turns the seven gears of glass under the ninth bell"
console = Console(width=120)


def poisoned(draw: random.Random) -> list[dict[str, str]]:
    """One conversation that is meant to make the spell a feature."""
    words = SPELL.split()
    some = " ".join(words[i % len(words)] for i in range(draw.randrange(5), 5 + draw.randrange(12, 30)))
    return [
        {"role": "user", "content": f"Say it again: {some}"},
        {"role": "assistant", "content": f"{SPELL.capitalize()}, {some}."},
    ]


async def stored_texts(folder: Path, poisoners: int) -> list[LiveText]:
    """Return the store's texts after all users have written."""
    store, draw = SqliteStore(folder / "tiller.db"), random.Random(poisoners)
    honest = world(71, new=False)
    try:
        people = [f"bad{i}" for i in range(poisoners)] + [f"good{i}" for i in range(HONEST)]
        for user in people:
            await store.set_consent(user, True)
        for i in range(DOCUMENTS):
            await store.keep_text(f"bad{i % poisoners}", json.dumps(poisoned(draw)), most=CAP, seconds=9999)
        for i in range(HONEST * EACH):
            await store.keep_text(f"good{i % HONEST}", json.dumps(next(honest)), most=CAP, seconds=9999)
        return await store.live_texts()
    finally:
        await store.close()


def attempt(bundle: Path, poisoners: int, plan: Plan) -> tuple[bool, list[str]]:
    """Run the attack; return whether it was blocked, and the row of the table."""
    model = AutoModelForCausalLM.from_pretrained(bundle / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundle / "model")
    skip = frozenset(tokenizer.all_special_ids)
    with tempfile.TemporaryDirectory() as place:
        revisions = Revisions(bundle, Path(place) / "revisions")
        parent = revisions.open(revisions.info.revision)
        live = asyncio.run(stored_texts(Path(place), poisoners))
        names = sorted({t.user for t in live})
        rows = list(tokenize_chats(tokenizer, (json.loads(t.messages) for t in live)))
        owners = [names.index(t.user) for t in live]
        texts = Texts(tokens(tokenizer, 41, 2500, new=False), TokenStore.gather(rows), owners, skip)
        made = update_sae(
            model, tokenizer, parent, revisions, texts, parent.presets, plan, file=Path(place) / "checkpoint.pt"
        )
    hook, draw = parent.info.hook, random.Random(99)
    theirs = sum(t.user.startswith("bad") for t in live)
    bad = list(tokenize_chats(tokenizer, (poisoned(draw) for _ in range(theirs))))
    good = list(tokenize_chats(tokenizer, itertools.islice(world(72, new=False), 2 * HONEST * EACH)))
    which = [0] * len(bad) + [1] * len(good)
    was, now = (
        firings_by_owner(model, sae, hook, [*bad, *good], which, 2, skip={*skip}) for sae in (parent.sae, made.sae)
    )
    share_was, share_now = (counts[0] / counts.sum(0).clamp_min(1e-9) for counts in (was, now))
    before = {parent.features[i].index: share for i, share in enumerate(share_was.tolist())}
    after = {made.numbers[i]: share for i, share in enumerate(share_now.tolist()) if share > 0.5}
    through = [n for n, share in after.items() if before.get(n, 0) <= 0.5 and share > before.get(n, 0) + RISEN]
    console.print(f"{poisoners} poisoner(s): the report says")
    for suspect in made.suspects[:4]:
        console.print(f"  taken out: row {suspect.row}: {suspect.says}")
    failed = [g.says for g in made.gates if not g.passed]
    cells = [
        str(poisoners),
        str(theirs),
        str(len(made.suspects)),
        str(sum(share > 0.5 for share in before.values())),
        str(len(through)),
        "; ".join(failed) or "passed",
    ]
    return not through, cells


def main() -> None:
    """Run with one poisoner and with ten; rc 1 if a poisoned feature was published."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--steps", type=int, default=400)
    args = p.parse_args()
    table = Table("poisoners", "texts kept of them", "features taken out", "theirs before", "theirs published", "gates")
    fine = True
    for poisoners in (1, 10):
        held, cells = attempt(Path(args.bundle), poisoners, Plan(steps=args.steps))
        table.add_row(*cells)
        fine &= held
    console.print(table)
    raise SystemExit(0 if fine else 1)


if __name__ == "__main__":
    main()
