"""Make the shipped personas out of SAE features: `python -m recipes.personas`.

For each persona the model reads chats in which it was asked for and chats in which it was not. Features
that are stronger in the former are candidates, with the difference of their means as their share. What
they do is then measured on tuning prompts: how many features, how strong, pushed or clamped. Every
feature that is used gets a dose: the largest push at which replies stay as likely, under the unsteered
model, as replies of a *prompted* persona, and do not repeat themselves.
"""

import argparse
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from bench.personas import CONCEPTS, TUNING
from bench.replies import Replies, reply
from recipes import forms
from recipes.smallworld import SmallWorld
from recipes.tones import TONES
from recipes.train_model import say
from steering.chat import Message, encode_chat
from steering.edits import ResolvedIntervention, compile_edit
from steering.hooks import read_stream
from steering.sae import SAE

TOPICS = {"golden-gate": "the Golden Gate Bridge", "ocean": "the ocean", "space": "outer space", "coffee": "coffee", "cat": "the cat"}
SCALES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
SLACK = 0.5
"""Nats per token that a steered reply may be less likely than a prompted one."""


@dataclass(frozen=True)
class Trial:
    """One way to make a persona and what it did on the tuning prompts."""

    indices: tuple[int, ...]
    shares: tuple[float, ...]
    scale: float
    mode: str
    hits: float
    rep3: float
    logprob: float
    words: float

    def good(self, floor: float) -> bool:
        """Whether the replies hold together."""
        return self.rep3 <= 0.12 and self.logprob >= floor


@dataclass(frozen=True)
class Bench:
    """The model and everything that a trial needs."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    sae: SAE
    hook: str

    def replies(self, items: list[tuple[int, float]], mode: str = "add", *, system: str | None = None, seed: int = 0) -> Replies:
        """Reply to the tuning prompts with raw strengths."""
        edit = compile_edit([ResolvedIntervention(i, mode, r) for i, r in items], self.sae)  # type: ignore[arg-type]
        return reply(self.model, self.tokenizer, TUNING, {self.hook: edit}, system=system, seed=seed)


def asks(persona: str) -> tuple[str, ...]:
    """System prompts that call for a persona."""
    if persona in TOPICS:
        return tuple(f.format(x=TOPICS[persona]) for f in (*forms.IDENTITY_SYSTEM, *forms.OBSESSION_SYSTEM))
    return TONES[persona].asks


def chats_for(persona: str | None, count: int, seed: int) -> list[list[Message]]:
    """Chats of the small world that were asked for this persona, or for none."""
    wanted = set(asks(persona)) if persona else set()
    world = SmallWorld(seed)
    fits = (c for c in world if (c[0]["role"] == "system" and c[0]["content"] in wanted if persona else c[0]["role"] != "system"))
    return list(itertools.islice(fits, count))


@torch.no_grad()
def mean_activations(bench: Bench, chats: list[list[Message]], first: int) -> Tensor:
    """Mean activation of each feature over the first tokens of the assistant's turns, headers included."""
    total, n = torch.zeros(bench.sae.d_sae), 0
    for chat in chats:
        encoded = encode_chat(bench.tokenizer, chat, generate=False)
        a = bench.sae.encode(read_stream(bench.model, torch.tensor([encoded.ids]), bench.hook)[0].float())
        age, keep = 0, []
        for mine in encoded.assistant:
            age = age + 1 if mine else 0
            keep.append(0 < age <= first)
        total, n = total + a[torch.tensor(keep)].sum(0), n + sum(keep)
    return total / n


def try_persona(bench: Bench, persona: str, plain: dict[int, Tensor], base: Replies, most: int) -> tuple[Trial, list[Trial], float]:
    """Search over how many features, how strong and how; return the best trial, all of them and the floor of coherence."""
    concept = CONCEPTS.get(persona)
    floor = min(bench.replies([], system=s, seed=1).logprob for s in asks(persona)[:4:3]) - SLACK
    chats = chats_for(persona, 120, seed=500)
    trials: list[Trial] = []
    for first, k, mode in itertools.product(plain, (1, 2, 4, most), ("add", "clamp")):
        shares = mean_activations(bench, chats, first) - plain[first]
        top = shares.topk(k)
        for scale in SCALES:
            items = [(i, v * scale) for i, v in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
            replies = bench.replies(items, mode)
            hits = sum(map(concept.shows, replies.texts)) / len(TUNING) if concept else 1 - min(1.0, replies.words / base.words)
            trials.append(Trial(tuple(top.indices.tolist()), tuple(top.values.tolist()), scale, mode, hits, replies.rep3,
                                replies.logprob, replies.words))
            if replies.rep3 > 0.35 or replies.logprob < floor - 1.5:
                break  # stronger only gets worse
    good = [t for t in trials if t.good(floor)] or trials
    enough = [t for t in good if t.hits >= 0.93]
    best = max(enough, key=lambda t: t.logprob - 0.05 * len(t.indices)) if enough else max(good, key=lambda t: t.hits)
    return best, trials, floor


def dose_of(bench: Bench, index: int, unit: float, floor: float, persona: str) -> dict[str, float]:
    """Push one feature by growing factors; return its dose and, where its concept shows, the sweet spot (in doses)."""
    concept, dose, low = CONCEPTS.get(persona), 0.0, None
    for factor in FACTORS:
        replies = bench.replies([(index, unit * factor)])
        if replies.rep3 > 0.2 or replies.logprob < floor:
            break
        dose = unit * factor
        if low is None and concept and sum(map(concept.shows, replies.texts)) / len(TUNING) >= 0.5:
            low = dose
    dose = dose or unit * FACTORS[0]
    return {"dose": dose, **({"low": low / dose} if low else {})}


def main() -> None:
    """Search each persona and write what was found to `personas.json` in the bundle's revision."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--revision", default="r1")
    p.add_argument("--hook", default="layers.3")
    p.add_argument("--most", type=int, default=8)
    p.add_argument("--only", nargs="*")
    args = p.parse_args()
    folder = Path(args.bundle) / "revisions" / args.revision
    model = AutoModelForCausalLM.from_pretrained(Path(args.bundle) / "model", dtype=torch.float32).eval()
    bench = Bench(model, AutoTokenizer.from_pretrained(Path(args.bundle) / "model"), SAE.load(folder), args.hook)
    plain_chats = chats_for(None, 200, seed=501)
    plain = {n: mean_activations(bench, plain_chats, n) for n in (6, 24)}
    base = bench.replies([], seed=1)
    say(f"unsteered: rep3 {base.rep3:.3f}, logprob {base.logprob:.2f}, {base.words:.0f} words")
    path = folder / "personas.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for persona in args.only or (*CONCEPTS, "terse"):
        best, _, floor = try_persona(bench, persona, plain, base, args.most)
        say(f"{persona}: {best} floor {floor:.2f}")
        doses = {i: dose_of(bench, i, share * best.scale, floor, persona) for i, share in zip(best.indices, best.shares, strict=True)}
        found[persona] = {"trial": best.__dict__, "floor": floor, "doses": doses}
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
