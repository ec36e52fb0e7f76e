"""Effect of suggested sliders: `python -m bench.autosteer` compares them with random features and with the prompt.

For each tone of the embedded model, features are suggested for "be …" from their gradients on some questions; on twenty
other questions the replies that show the tone are counted: with the suggestion, with as many random features at the
same doses, with the prompt, and unsteered.
"""

import argparse
import random
import statistics
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from steering.bakeoff.concepts import load
from steering.bakeoff.personas import PROMPTS, TUNING
from steering.bakeoff.replies import reply
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.doses.suggest import candidates, propose
from steering.spec import Intervention, SteeringSpec

console = Console(width=120)


def main() -> None:
    """Print the table; rc 1 if the suggestions gain no more than random features do."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path("sae_weights/harbor"))
    p.add_argument("--concepts", default="harbor")
    args = p.parse_args()
    bundle = Bundle.open(args.bundle)
    model = AutoModelForCausalLM.from_pretrained(bundle.model_path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundle.model_path)
    catalogue, hook = Catalogue([bundle]), bundle.info.hook
    columns = ("wish", "features", "gain, nats", "random", "prompt", "shows it", "random", "prompt", "unsteered")
    table, gains = Table(*columns), []
    for concept in load(args.concepts):
        wish = concept.prompts[0].rstrip(".")
        found = propose(model, tokenizer, bundle, wish, questions=TUNING[:8])
        doses = [s.dose for s in found.suggestions]
        others = random.Random(concept.name).sample(candidates(bundle), len(doses))
        chosen = [[s.feature for s in found.suggestions], others]

        def shown(features: list, system: str | None = None, *, doses: list[float] = doses, concept=concept) -> float:  # noqa: ANN001
            items = tuple(Intervention(id=f.id, strength=d) for f, d in zip(features, doses, strict=False))
            edits = catalogue.resolve(SteeringSpec(features=items)).edits if items else {}
            sampled = {"temperature": 0.7, "tokens": 40, "scope": bundle.info.scope}
            texts = reply(model, tokenizer, PROMPTS, edits, system=system, **sampled).texts
            return statistics.mean(concept.shows(t) for t in texts)

        figures = [shown(chosen[0]), shown(chosen[1]), shown([], concept.prompts[0]), shown([])]
        gains.append((found.gain, found.random_gain))
        names = ", ".join(f"{s.feature.index}×{s.dose:g}" for s in found.suggestions) or "none"
        row = [f"{g:+.3f}" for g in (found.gain, found.random_gain, found.prompt_gain)]
        table.add_row(wish, names, *row, *(f"{f:.0%}" for f in figures))
    console.print(table)
    ours, theirs = (statistics.mean(g[i] for g in gains) for i in (0, 1))
    console.print(f"mean gain {ours:+.3f} nats a token, random features {theirs:+.3f}; hook {hook}")
    raise SystemExit(0 if ours > theirs else 1)


if __name__ == "__main__":
    main()
