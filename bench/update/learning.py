"""Live update of the SAE: `python -m bench.update.learning` measures learning of new concepts and stability of a persona.

The embedded SAE is trained further on a second corpus about twelve things on which neither it nor its model was
trained. The baseline is an SAE trained on the same text for as many steps, but from a new seed.
"""

import argparse
import asyncio
import bisect
import itertools
import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from bench.showpieces import NATURAL, replies
from recipes.smallworld.chats import SmallWorld
from recipes.smallworld.topics import parse_topic, read_topics
from server.engines.transformers.engine import TransformersEngine
from steering.bakeoff.personas import CONCEPTS
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.catalogue.revisions import Revisions
from steering.model.activations import ActivationStream, activations, padded_batches, tokenize_chats
from steering.model.hooks import read_stream
from steering.model.token_store import TokenStore
from steering.sae import SAE
from steering.train.objectives import BatchTopK
from steering.train.trainer import TrainingRecipe, train
from steering.update.update import Candidate, Plan, Texts, update_sae

NEWCOMERS = Path(__file__).parent / "newcomers.txt"
HAS = 0.7
"""Least F1 between a feature's firing and a thing's mentions at which the thing has a feature."""
SHARES = (0.0, 0.25, 0.5)
console = Console(width=120)


@dataclass(frozen=True)
class Concept:
    """Best F1 of a feature for one thing, before and after."""

    name: str
    before: float
    after: float
    fresh: float


def newcomers() -> list[str]:
    """Names of the new things."""
    return [m.removeprefix("the ") for m in re.findall(r"^## (.*)$", NEWCOMERS.read_text(), flags=re.M)]


def world(seed: int, *, new: bool) -> Iterator[list[dict[str, str]]]:
    """Chats about what the embedded model knows, or about the new things."""
    if not new:
        return iter(SmallWorld(seed))
    blocks = re.split(r"^## ", NEWCOMERS.read_text(), flags=re.M)[1:]
    known = [t for t in read_topics() if t.name == "the Golden Gate Bridge"]
    return iter(SmallWorld(seed, [*(parse_topic(block) for block in blocks), *known]))


def tokens(tokenizer: PreTrainedTokenizerFast, seed: int, chats: int, *, new: bool) -> TokenStore:
    """Return the token ids of that many chats."""
    return TokenStore.gather(tokenize_chats(tokenizer, itertools.islice(world(seed, new=new), chats)))


@torch.no_grad()
def best_f1_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sae: SAE, hook: str, texts: Sequence[Sequence[int]]
) -> list[float]:
    """For each new thing the best F1 of a feature that counts as on above some share of its largest activation.

    Recall is over mentions, of which one token is enough; precision over all tokens of all texts.
    """
    names = newcomers()
    read = [sae.encode(read_stream(model, torch.tensor([ids]), hook)[0].float()) for ids in texts]
    top = torch.stack([a[1:].amax(0) for a in read]).amax(0).clamp_min(1e-9)
    spans = [_spans(tokenizer, ids, names) for ids in texts]
    best = torch.zeros(len(names))
    for share in SHARES:
        inside, fired = torch.zeros(len(names), sae.d_sae), torch.zeros(sae.d_sae)
        hit, named = torch.zeros(len(names), sae.d_sae), torch.zeros(len(names))
        for a, of_text in zip(read, spans, strict=True):
            on = a > share * top
            fired += on[1:].sum(0)
            for i, start, end in of_text:
                named[i] += 1
                inside[i] += on[start:end].sum(0)
                hit[i] += on[start:end].any(0)
        precision, recall = inside / fired.clamp_min(1), hit / named[:, None].clamp_min(1)
        best = torch.maximum(best, (2 * precision * recall / (precision + recall).clamp_min(1e-9)).amax(1))
    return best.tolist()


def _spans(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], names: list[str]) -> list[tuple[int, int, int]]:
    """Every mention: its name, and its first and last token."""
    pieces = [str(tokenizer.decode([token])) for token in ids]
    ends = list(itertools.accumulate(map(len, pieces)))
    text = "".join(pieces).lower()
    return [
        (i, bisect.bisect_right(ends, m.start()), bisect.bisect_left(ends, m.end()) + 1)
        for i, name in enumerate(names)
        for m in re.finditer(re.escape(name), text)
    ]


def fresh(
    model: PreTrainedModel, parent: Bundle, old: TokenStore, new: TokenStore, plan: Plan, skip: frozenset[int]
) -> SAE:
    """An SAE of the same size from a new seed, on both texts, with as many steps as SAE and update had together."""
    both = TokenStore.gather(itertools.chain(old, new))
    stream = ActivationStream(
        model, both, parent.info.hook, rows=plan.rows, buffer=plan.buffer, skip=skip, passes=1000, seed=5
    )
    held_out = torch.cat(
        list(activations(model, padded_batches([*old][:200], batch=16, longest=512, pad=0), parent.info.hook))
    )
    k = round(parent.info.metrics.get("l0", 32))
    recipe = TrainingRecipe(
        BatchTopK(k=k), d_sae=parent.sae.d_sae + plan.append, steps=1200 + plan.steps, lr=1e-3, seed=5
    )
    *_, last = train(stream, recipe, held_out=held_out)
    assert last.sae
    return last.sae


def identity_of(sae: SAE, parent: SAE, rows: list[int], fired: Tensor) -> tuple[float, float]:
    """Share of `rows` whose best match has a cosine of at least 0.98, and share of firing with a match of at least 0.9."""
    best = torch.cat([(part @ sae.W_dec.T).max(1).values for part in parent.W_dec.split(512)])
    return float((best[rows] >= 0.98).float().mean()), float((fired * (best >= 0.9)).sum() / fired.sum())


async def golden(bundle: Bundle) -> float:
    """Share of replies of the golden-gate persona that mention the bridge."""
    engine = TransformersEngine.load(bundle.model_path, hooks=[bundle.info.hook])
    preset = next(p for p in bundle.presets if p.id == "golden-gate")
    try:
        texts = await replies(
            engine,
            Catalogue([bundle]),
            preset.steering,
            sampling=replace(
                NATURAL,
                temperature=preset.sampling.get("temperature", 0.7),
                top_p=1.0,
                repetition_penalty=preset.sampling.get("repetition_penalty", 1.0),
            ),
        )
    finally:
        await engine.close()
    return sum(bool(CONCEPTS["golden-gate"].shows(text)) for text in texts) / len(texts)


def main() -> None:
    """Run it and print figures; rc 1 if one of the goals is missed."""
    args = _arguments()
    torch.manual_seed(0)
    base = Path(args.bundle)
    model = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    with tempfile.TemporaryDirectory() as place:
        revisions = Revisions(base, Path(place) / "revisions")
        parent = revisions.open(revisions.info.revision)
        old, new = tokens(tokenizer, 41, args.chats, new=False), tokens(tokenizer, 42, args.chats, new=True)
        skip = frozenset(tokenizer.all_special_ids)
        plan = replace(Plan(), steps=args.steps)
        started = time.perf_counter()
        made = update_sae(
            model,
            tokenizer,
            parent,
            revisions,
            Texts(old, new, skip=skip),
            parent.presets,
            plan,
            file=Path(place) / "checkpoint.pt",
            tell=lambda p: (
                console.print(f"  step {p.step}: EV {p.explained_variance:.3f}, L0 {p.l0:.1f}")
                if p.step % 200 == 0
                else None
            ),
        )
        seconds = time.perf_counter() - started
        manifest = revisions.publish(parent, made.sae, made.features, numbers=made.numbers, report=made.report())
        after = revisions.open(manifest.revision)
        other = None if args.no_fresh else fresh(model, parent, old, new, plan, skip)
        tests = [*tokens(tokenizer, 43, 400, new=True), *tokens(tokenizer, 44, 400, new=False)]
        hook = parent.info.hook
        scores = [
            best_f1_scores(model, tokenizer, sae, hook, tests) for sae in (parent.sae, after.sae, other or parent.sae)
        ]
        concepts = [Concept(*row) for row in zip(newcomers(), *scores, strict=True)]
        golden_before, golden_after = asyncio.run(golden(parent)), asyncio.run(golden(after))
        fired = torch.tensor([f.density for f in parent.features])
        rows = sorted(
            {parent.numbered[int(i.id.split("/")[1])].row for p in parent.presets for i in p.steering.features}
        )
        fresh_identity = identity_of(other, parent.sae, rows, fired) if other else None
    passed = _show_progress(made, concepts, fresh_identity, (golden_before, golden_after), seconds, len(rows))
    if args.out:
        record = {
            "report": made.report(),
            "figures": made.figures,
            "concepts": [asdict(c) for c in concepts],
            "golden_gate": [golden_before, golden_after],
            "fresh": fresh_identity,
            "seconds": seconds,
        }
        Path(args.out).write_text(json.dumps(record, indent=1) + "\n")
    raise SystemExit(0 if passed else 1)


def _show_progress(
    made: Candidate,
    concepts: list[Concept],
    fresh_identity: tuple[float, float] | None,
    golden_gate: tuple[float, float],
    seconds: float,
    rows: int,
) -> bool:
    table = Table("gate", "figure", "limit", "passed", "says")
    for gate in made.gates:
        mark = "yes" if gate.passed else "[red]no[/]"
        table.add_row(gate.name, f"{gate.value:.4f}", f"{'≤' if gate.at_most else '≥'} {gate.limit:g}", mark, gate.says)
    console.print(table)
    table = Table("new thing", "best feature's F1 before", "after", "fresh seed")
    for c in concepts:
        table.add_row(c.name, f"{c.before:.2f}", f"{c.after:.2f}", f"{c.fresh:.2f}" if fresh_identity else "")
    console.print(table)
    share = sum(c.after >= HAS for c in concepts) / len(concepts)
    before = sum(c.before >= HAS for c in concepts) / len(concepts)
    wanted = CONCEPTS["golden-gate"].at_least
    kept = golden_gate[1] >= wanted
    console.print(f"things with a feature: {before:.0%} → {share:.0%} (goal ≥ 80 %)")
    console.print(
        f"golden-gate speaks of the bridge: {golden_gate[0]:.0%} → {golden_gate[1]:.0%} (its bench asks for {CONCEPTS['golden-gate'].at_least:.0%})"
    )
    if fresh_identity:
        console.print(
            f"from a fresh seed, {fresh_identity[0]:.0%} of the {rows} features of presets would have a match of 0.98,"
            f" and {fresh_identity[1]:.0%} of what fires one of 0.9, after searching for the best"
        )
    console.print(f"the update took {seconds:.0f} s; all gates passed: {'yes' if made.passed else 'no'}")
    return made.passed and share >= 0.8 and kept


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--chats", type=int, default=4000, help="of each corpus")
    p.add_argument("--steps", type=int, default=Plan().steps)
    p.add_argument("--no-fresh", action="store_true", help="leave out the comparison with a fresh seed")
    p.add_argument("--out", help="JSON file for the figures")
    return p.parse_args()


if __name__ == "__main__":
    main()
