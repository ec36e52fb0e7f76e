"""Fit the shipped personas from SAE features: `python -m recipes.personas`.

Labels and mean activations turned out to be poor guides (docs/decisions), so features are chosen by their effect:
strengths of all features are fitted by gradient so that the *unsteered* model, pushed on its own turn, gives the
persona's replies a high likelihood without any system prompt. The fit is pruned step by step to two dozen features and
refitted; then replies to tuning prompts set the scale. Each used feature gets a dose: the largest push of it alone at
which replies stay likely and do not repeat themselves.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from recipes import forms
from recipes.smallworld.chats import SmallWorld
from recipes.tones import TONES
from recipes.train_model import say
from steering.bakeoff.personas import CONCEPTS, TUNING
from steering.bakeoff.replies import Replies, reply
from steering.edits import ResolvedIntervention, compile_edit
from steering.model.chat_template import EncodedChat, encode_chat
from steering.model.hooks import tap
from steering.sae import SAE

TOPICS = {
    "golden-gate": "the Golden Gate Bridge",
    "ocean": "the ocean",
    "space": "outer space",
    "coffee": "coffee",
    "cat": "the cat",
}
STAGES = ((2048, 40), (32, 25))
"""Number of features kept, and steps of the fit with them; the last stage is `--most`."""
SCALES = (0.8, 1.0, 1.3, 1.6, 2.0, 2.5)
FACTORS = (1.0, 1.5, 2.0, 3.0, 5.0)
BATCH, LONGEST, SPARSITY = 16, 100, 3e-4
REPETITION_PENALTY = 1.15
"""Presets ship with it: a strong push makes a model repeat itself (rep3 0.41 → 0.08 for golden-gate)."""


@dataclass(frozen=True)
class Trial:
    """Results of a persona's features at one scale on the tuning prompts."""

    scale: float
    hits: float
    rep3: float
    logprob: float
    words: float

    @property
    def holds(self) -> bool:
        """Whether the replies are coherent."""
        return self.rep3 <= 0.15 and self.logprob >= -2.2


@dataclass(frozen=True)
class Lab:
    """The model and all inputs of a fit or a trial."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    sae: SAE
    hook: str

    def replies(self, strengths: dict[int, float], *, prompts: tuple[str, ...] = TUNING, tokens: int = 48) -> Replies:
        """Reply to the tuning prompts with raw strengths."""
        edit = compile_edit([ResolvedIntervention(i, "add", r) for i, r in strengths.items()], self.sae)
        return reply(
            self.model, self.tokenizer, prompts, {self.hook: edit}, tokens=tokens, repetition_penalty=REPETITION_PENALTY
        )


def asks(persona: str) -> tuple[str, ...]:
    """Return the system prompts that ask for a persona."""
    if persona in TOPICS:
        return tuple(f.format(x=TOPICS[persona]) for f in (*forms.IDENTITY_SYSTEM, *forms.OBSESSION_SYSTEM))
    return TONES[persona].asks


def examples(lab: Lab, persona: str, count: int, seed: int) -> list[EncodedChat]:
    """Return first exchanges in which the persona was asked for, without the system prompt."""
    wanted, found = set(asks(persona)), []
    for chat in SmallWorld(seed):
        if chat[0]["role"] == "system" and chat[0]["content"] in wanted:
            encoded = encode_chat(lab.tokenizer, chat[1:3], generate=False)
            if len(encoded.ids) <= LONGEST:
                found.append(encoded)
        if len(found) == count:
            return found
    raise AssertionError("the world is endless")


def fit(lab: Lab, rows: list[EncodedChat], most: int) -> dict[int, float]:
    """Return raw strengths of at most `most` features that make `rows` likely."""
    kept, strengths = torch.arange(lab.sae.d_sae), torch.zeros(lab.sae.d_sae)
    for size, steps in (*STAGES, (most, 50)):
        best = strengths.abs().topk(min(size, len(kept))).indices if size < len(kept) else torch.arange(len(kept))
        kept, strengths = kept[best], strengths[best]
        strengths = _descend(
            lab, rows, lab.sae.W_dec[kept], strengths, steps, sparsity=SPARSITY if size > most else 0.0
        )
    return dict(zip(kept.tolist(), strengths.tolist(), strict=True))


def _descend(
    lab: Lab, rows: list[EncodedChat], directions: Tensor, start: Tensor, steps: int, *, sparsity: float
) -> Tensor:
    strengths = start.clone().requires_grad_()
    rate = 0.8 if len(directions) > 100 else 1.5
    optimizer = torch.optim.Adam([strengths], lr=rate)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        chosen = torch.randint(len(rows), (BATCH,), generator=generator).tolist()
        likely = _cross_entropy(lab, [rows[i] for i in chosen], strengths @ directions)
        (likely + sparsity * strengths.abs().sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = rate * (1 - 0.8 * step / steps)
    return strengths.detach()


def _cross_entropy(lab: Lab, rows: list[EncodedChat], push: Tensor) -> Tensor:
    longest = max(len(r.ids) for r in rows)
    ids = torch.tensor([[*r.ids, *[0] * (longest - len(r.ids))] for r in rows])
    mine = torch.tensor([[*r.assistant, *[False] * (longest - len(r.ids))] for r in rows])
    with tap(lab.model, {lab.hook: lambda x: torch.where(mine[..., None], x + push, x)}):
        logits = lab.model(input_ids=ids, use_cache=False).logits
    said = mine[:, 1:] & mine[:, :-1]  # a reply's tokens without their header
    return torch.nn.functional.cross_entropy(logits[:, :-1][said], ids[:, 1:][said])


def trials(lab: Lab, persona: str, strengths: dict[int, float], base_words: float) -> list[Trial]:
    """Try every scale on the tuning prompts, until the replies are incoherent."""
    concept, done = CONCEPTS.get(persona), []
    for scale in SCALES:
        r = lab.replies({i: s * scale for i, s in strengths.items()})
        hits = sum(map(concept.shows, r.texts)) / len(r.texts) if concept else 1 - min(1.0, r.words / base_words)
        done.append(Trial(scale, hits, r.rep3, r.logprob, r.words))
        if r.rep3 > 0.4 or r.logprob < -4:
            break
    return done


def best_of(found: list[Trial], enough: float) -> Trial:
    """Return the smallest scale with a visible persona and coherent replies; else the most visible coherent one."""
    holding = [t for t in found if t.holds] or found[:1]
    telling = [t for t in holding if t.hits >= enough]
    return telling[0] if telling else max(holding, key=lambda t: t.hits)


def dose_of(lab: Lab, index: int, strength: float) -> float:
    """Push one feature alone by growing factors of its share; return the last raw strength with coherent replies."""
    dose = abs(strength)
    for factor in FACTORS:
        r = lab.replies({index: strength * factor}, prompts=TUNING[:6], tokens=32)
        if r.rep3 > 0.2 or r.logprob < -2.0:
            break
        dose = abs(strength) * factor
    return dose


def main() -> None:
    """Fit each persona and write the result to `personas/<name>.json` in the bundle's revision."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--revision", default="r1")
    p.add_argument("--hook", default="layers.3")
    p.add_argument("--most", type=int, default=24, help="how many features a persona is made of")
    p.add_argument("--only", nargs="*")
    p.add_argument("--keep-fit", action="store_true", help="only try the scales again")
    p.add_argument("--threads", type=int, default=0, help="0 leaves it to torch")
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    folder = Path(args.bundle) / "revisions" / args.revision
    model = (
        AutoModelForCausalLM.from_pretrained(Path(args.bundle) / "model", dtype=torch.float32)
        .eval()
        .requires_grad_(False)
    )
    lab = Lab(model, AutoTokenizer.from_pretrained(Path(args.bundle) / "model"), SAE.load(folder), args.hook)
    base = lab.replies({})
    (folder / "personas").mkdir(exist_ok=True)
    for persona in args.only or (*CONCEPTS, "terse"):
        start = time.time()
        path = folder / "personas" / f"{persona}.json"
        held = json.loads(path.read_text()) if args.keep_fit else None
        strengths = (
            {int(i): s / held["best"]["scale"] for i, s in held["strengths"].items()}
            if held
            else fit(lab, examples(lab, persona, 300, seed=900), args.most)
        )
        tried = trials(lab, persona, strengths, base.words)
        best = best_of(tried, 0.95 if persona == "golden-gate" else 0.85)
        doses = held["doses"] if held else {i: dose_of(lab, i, s * best.scale) for i, s in strengths.items()}
        found = {
            "strengths": {i: s * best.scale for i, s in strengths.items()},
            "doses": doses,
            "best": asdict(best),
            "tried": [asdict(t) for t in tried],
        }
        path.write_text(json.dumps(found, indent=1) + "\n")
        say(
            f"{persona}: {best} of {[(t.scale, round(t.hits, 2), round(t.logprob, 2)) for t in tried]} {time.time() - start:.0f}s"
        )


if __name__ == "__main__":
    main()
