"""Effect of suggested sliders: `python -m bench.autosteer` compares them with random features and with the prompt.

For each concept of the steering report, features and a preset are suggested for its first system prompt; on twenty
questions the replies that show the concept are counted: with the suggestion, with as many random features at the same
doses, with the prompt, and unsteered. Wishes that mean nothing are suggested for as well, and must get nothing.
"""

import argparse
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from steering.bakeoff.concepts import Concept, load
from steering.bakeoff.methods import sampling_of
from steering.bakeoff.personas import PROMPTS
from steering.bakeoff.replies import reply
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.catalogue.suggest import Alike, candidates, suggest
from steering.interpret.label_embeddings import Encode, LabelEmbeddings
from steering.model.input_embeddings import read_input_embeddings
from steering.spec import Intervention, SteeringSpec

console = Console(width=120)
NONSENSE = (
    "asdfgh qwerty zxcv", "blorf", "xk 12 %%", "flumbus wuggle", "the of and", "999 44 22", "lorem ipsum dolor", "zzzzzz",
    "qqq www eee rrr", "hgf", "fnord glip", "1234", "??? !!!", "tralalala", "xyzzy plugh", "o p q r",
)  # fmt: skip


def main() -> None:
    """Print the table; rc 1 if suggestions show no more than random features do, or nonsense is suggested for."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path("sae_weights/smollm2"))
    p.add_argument("--concepts", default="smollm2")
    args = p.parse_args()
    bundle = Bundle.open(args.bundle)
    model = AutoModelForCausalLM.from_pretrained(bundle.model_path, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(bundle.model_path)
    alike = comparison(bundle, tokenizer)
    rows = [shares(model, tokenizer, bundle, concept, alike) for concept in load(args.concepts)]
    table = Table("wish", "features", "preset", "shows it", "random", "prompt", "unsteered", "seconds")
    for row in rows:
        table.add_row(row.wish, row.features, row.preset, *(f"{s:.0%}" for s in row.shown), f"{row.seconds:.2f}")
    console.print(table)
    ours, theirs, prompt, plain = (statistics.mean(r.shown[i] for r in rows) for i in range(4))
    console.print(
        f"mean: suggestion {ours:.0%}, random features {theirs:.0%}, prompt {prompt:.0%}, unsteered {plain:.0%}"
    )
    answered = [w for w in NONSENSE if (found := suggest(bundle, bundle.presets, w, alike)).suggestions or found.preset]
    console.print(f"{len(answered)} of {len(NONSENSE)} wishes that mean nothing got an answer {answered or ''}")
    raise SystemExit(0 if ours > theirs and not answered else 1)


@dataclass(frozen=True)
class Row:
    """What came of one wish: shares of replies that show it, with the suggestion, random features, the prompt, and nothing."""

    wish: str
    features: str
    preset: str
    shown: tuple[float, float, float, float]
    seconds: float


def shares(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, bundle: Bundle, concept: Concept, alike: Alike
) -> Row:
    """Suggest for a concept, and count the replies that show it."""
    wish, start = concept.prompts[0].rstrip("."), time.perf_counter()
    found = suggest(bundle, bundle.presets, wish, alike)
    seconds, catalogue = time.perf_counter() - start, Catalogue([bundle])
    items = tuple(Intervention(id=s.feature.id, strength=s.dose) for s in found.suggestions)
    others = random.Random(concept.name).sample(candidates(bundle), len(items))
    chance = tuple(Intervention(id=f.id, strength=i.strength) for f, i in zip(others, items, strict=True))
    chosen = found.preset.steering if found.preset else SteeringSpec(features=items)
    pins = found.preset.pins if found.preset else {}

    def shown(spec: SteeringSpec, system: str | None = None) -> float:
        edits = catalogue.resolve(spec, pins).edits if spec.features else {}
        drawn, where = sampling_of(bundle.info), bundle.info.where
        texts = reply(model, tokenizer, PROMPTS, edits, system=system, **drawn, tokens=40, where=where).texts
        return statistics.mean(concept.shows(t) for t in texts)

    nothing = SteeringSpec(features=())
    figures = shown(chosen), shown(SteeringSpec(features=chance)), shown(nothing, concept.prompts[0]), shown(nothing)
    names = ", ".join(f"{s.feature.label} {s.dose:+g}" for s in found.suggestions) or "none"
    return Row(wish, names, found.preset.id if found.preset else "", figures, seconds)


def comparison(bundle: Bundle, tokenizer: PreTrainedTokenizerFast) -> Alike:
    """Similarity as the server computes it: by the model's own input embeddings."""
    encode: Encode = lambda word: tokenizer(word, add_special_tokens=False)["input_ids"]  # noqa: E731
    own = LabelEmbeddings(read_input_embeddings(bundle.model_path), encode, [f.label for f in bundle.features])
    own.similarities("warm up")
    return lambda words, texts: own.for_labels(texts).similarities(words).tolist()


if __name__ == "__main__":
    main()
