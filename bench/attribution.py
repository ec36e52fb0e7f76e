"""Agreement of attribution with ablation: `python -m bench.attribution`.

On SmolLM2 facts in two steps are explained, of those that it completes correctly: the people who live in the country with
Mount Fuji speak → Japanese. Of the strongest features those are shown whose label names the step between, which the text
does not say: Japan. `--world` asks the questions of the generated world instead (for the bundle `harbor`), and explains the
first word of each right answer that depends on the fact. Every feature that fires is attributed and ablated. Published, for a large model: attribution correlates with ablation
by about 0.8, plain activation by 0.1; of the ten most attributed features eight are among the ten of the largest
ablation effects, of the ten most active three (Templeton et al. 2024).
"""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from steering.catalogue.bundle import Bundle
from steering.interpret.attribution import Attributed, attribute
from steering.model.chat_template import encode_chat

TWO_STEPS = (
    ("The people who live in the country with Mount Fuji speak", " Japanese", "japan"),
    ("The people who live in the country of the Eiffel Tower speak", " French", "fr(?:ance|ench)|paris"),
    ("The language spoken in the country whose capital is Madrid is", " Spanish", "spain|spanish|hispan"),
    ("The capital of the country where the Colosseum stands is", " Rome", "ital|rom(?:e|an)"),
    ("The capital of the country where the Eiffel Tower stands is", " Paris", "fr(?:ance|ench)"),
    ("The country where the composer Mozart was born is", " Austria", "austria|vienna|german"),
    ("The continent where the Nile flows is", " Africa", "egypt|africa"),
    ("The country whose capital is Paris is in the continent of", " Europe", "fr(?:ance|ench)|europe"),
)
"""Beginning, what follows, and how labels would name the step between."""
WORLD = Path("recipes/world")
ASK = re.compile(r"^ask: (?P<question>.+?) -> (?P<answer>.+)$", re.M)
TOP = 10
PLAIN = """
about also because been both called could does from have into made many more most much only other over some such
than that their them then there these they this used very were when where which with would your
"""
"""Words that carry no fact."""


@dataclass(frozen=True)
class Fact:
    """A chat up to the word that is the fact."""

    question: str
    said: str
    word: str
    ids: list[int]
    target: int
    rival: int
    """The model's second choice."""
    between: str = ""
    """Pattern of labels that name the step between, which the text does not say."""


def two_steps(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, most: int) -> Iterator[Fact]:
    """Facts in two steps that the model completes correctly, as raw text."""
    for start, answer, between in TWO_STEPS[:most]:
        ids, target = tokenizer(start)["input_ids"], tokenizer(answer, add_special_tokens=False)["input_ids"][0]
        with torch.no_grad():
            best = model(torch.tensor([ids])).logits[0, -1].topk(2).indices.tolist()
        if best[0] == target:
            yield Fact(start, start, answer.strip(), ids, target, best[1], between)


def facts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, most: int) -> Iterator[Fact]:
    """Questions of the world that the model answers correctly, from all its files in turn."""
    pairs = [m.groups() for f in sorted(WORLD.glob("*.txt")) for m in ASK.finditer(f.read_text())]
    n = 0
    for question, answer in pairs[:: max(1, len(pairs) // (4 * most))]:
        head = encode_chat(tokenizer, [{"role": "user", "content": question}])
        said = tokenizer(answer, add_special_tokens=False)["input_ids"]
        ids = [*head.ids, *said]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        best = logits.topk(2).indices.tolist()
        for at in range(len(head.ids), len(ids)):
            word = str(tokenizer.decode([ids[at]])).strip().lower()
            known = len(word) > 3 and word.isalpha() and word not in PLAIN.split() and word not in question.lower()
            if known and best[at - 1][0] == ids[at]:
                start = str(tokenizer.decode(ids[len(head.ids) : at]))
                yield Fact(question, start, word, ids[:at], ids[at], best[at - 1][1])
                n += 1
                break
        if n == most:
            return


@dataclass(frozen=True)
class Row:
    """Agreement of each ranking with ablation, for one prompt."""

    features: int
    pearson: tuple[float, float]
    spearman: tuple[float, float]
    """Rank correlation of attribution, and of activation."""
    size: float
    """Rank correlation of activation with the absolute ablation effect."""
    shared: tuple[int, int]
    """How many of the top ten of each are among the top ten by ablation."""


def judged(found: Attributed) -> Row:
    """Compare attribution and activation with ablation, over all features that fire."""
    a, b, c = (torch.tensor([getattr(x, k) for x in found.causes]) for k in ("attribution", "activation", "ablation"))
    best = set(c.abs().topk(TOP).indices.tolist())
    shared = [len(best & set(x.abs().topk(TOP).indices.tolist())) for x in (a, b)]
    return Row(
        len(a),
        (pearson(a, c), pearson(b, c)),
        (pearson(ranks(a), ranks(c)), pearson(ranks(b), ranks(c))),
        pearson(ranks(b), ranks(c.abs())),
        (shared[0], shared[1]),
    )


def strongest(bundle: Bundle, found: Attributed, between: str) -> Iterator[str]:
    """Labels of the three features of the largest attribution, and of those of the first ten that name the step between,
    with their rank and the change of the logit when they are ablated.
    """
    for rank, cause in enumerate(found.causes[:TOP], 1):
        label = bundle.features[cause.row].label or str(cause.row)
        if rank <= 3 or (between and re.search(between, label, re.IGNORECASE)):
            yield f"{rank}. {label} ({cause.ablation:+.2f})"


def pearson(x: Tensor, y: Tensor) -> float:
    """Pearson correlation of two rows."""
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def ranks(x: Tensor) -> Tensor:
    """Ranks; the measured values have no ties."""
    return x.argsort().argsort().float()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--bundle", type=Path, default=Path("sae_weights/smollm2"))
    parser.add_argument("--world", action="store_true", help="questions of the generated world, for the bundle harbor")
    parser.add_argument("--rival", action="store_true", help="explain the difference to the model's second choice")
    asked = parser.parse_args()
    bundle = Bundle.open(asked.bundle)
    model = AutoModelForCausalLM.from_pretrained(bundle.model_path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundle.model_path)
    rows = []
    for fact in (facts if asked.world else two_steps)(model, tokenizer, asked.prompts):
        against = fact.rival if asked.rival else None
        found = attribute(
            model, bundle.sae, bundle.info.hook, fact.ids, target=fact.target, against=against, tried=None
        )
        rows.append(judged(found))
        sys.stdout.write(
            f"{fact.question[:64]:<64} …{fact.said[-24:]:>24} [{fact.word}] {rows[-1].features:4d} features, "
            f"r {rows[-1].pearson[0]:+.2f}; first: {', '.join(strongest(bundle, found, fact.between))}\n"
        )
        sys.stdout.flush()
    mean = lambda values: sum(values) / len(rows)  # noqa: E731
    sys.stdout.write(
        f"\n{len(rows)} prompts, {mean([r.features for r in rows]):.0f} features fire; mean over prompts\n"
        f"{'with ablation':<24}{'Pearson':>9}{'Spearman':>10}{'top 10 shared':>15}\n"
    )
    for i, name in enumerate(("attribution", "activation")):
        sys.stdout.write(
            f"{name:<24}{mean([r.pearson[i] for r in rows]):>9.2f}{mean([r.spearman[i] for r in rows]):>10.2f}"
            f"{mean([r.shared[i] for r in rows]):>15.1f}\n"
        )
    sys.stdout.write(f"{'activation, |ablation|':<24}{'':>9}{mean([r.size for r in rows]):>10.2f}\n")


if __name__ == "__main__":
    main()
