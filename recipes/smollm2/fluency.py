"""Replies over a range of pushes, to be read by people: `python -m recipes.smollm2.fluency --model M --sae S --out F`.

Readers label each reply fluent, strained or broken; `steering.evaluate.coherence` is fitted to one half of the labels,
and `python -m bench.badge` scores it on the other. Pushes are SAE features, differences of means of tones and random
directions, from none to 0.9 of the residual stream's typical norm. The order is random, so that a reader cannot tell
the arm from the place.
"""

import argparse
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from transformers import AutoTokenizer

from recipes.smollm2.concepts import concepts
from recipes.smollm2.files import Record, write_lines
from recipes.smollm2.lean import Lean
from recipes.smollm2.replies import END, LAYER, directions, sample
from steering.sae import SAE

REPLIES, AT_ONCE = 640, 64
STRENGTHS = (0.0, 0.15, 0.25, 0.32, 0.4, 0.48, 0.58, 0.7, 0.9)
"""Of the typical norm, each as often as the others."""
KINDS = {"feature": 0.65, "tone": 0.25, "random": 0.10}
"""Share of replies by what is pushed."""


def make_replies(model: Lean, folder: Path, sae: SAE, seed: int = 0) -> list[Record]:
    """Return `REPLIES` replies with prompt, push and strength, in random order."""
    tokenizer, rng = AutoTokenizer.from_pretrained(folder), Random(seed)
    tones = directions(model, tokenizer)
    typical = float(next(iter(tones.values())).norm())
    generator = torch.Generator().manual_seed(seed)
    rows: list[Record] = []
    while len(rows) < REPLIES:
        batch = [_drawn(rng, sae, tones, typical, generator) for _ in range(AT_ONCE)]
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": r["prompt"]}], add_generation_prompt=True, return_dict=False
            )
            for r, _ in batch
        ]
        push = torch.stack([p for _, p in batch]).to(model.embedding.dtype)
        temperature = torch.full((AT_ONCE,), 0.5)
        for (row, _), ids in zip(batch, sample(model, prompts, push, temperature, generator), strict=True):
            kept = [i for i in ids if i not in END][:80]
            rows.append(row | {"reply": tokenizer.decode(kept), "ids": kept})
    return rows


def _drawn(
    rng: Random, sae: SAE, tones: dict[str, Tensor], typical: float, generator: torch.Generator
) -> tuple[Record, Tensor]:
    """One reply's settings, and its push."""
    kind = rng.choices([*KINDS], [*KINDS.values()])[0]
    strength = rng.choice(STRENGTHS)
    if kind == "feature":
        name = rng.randrange(sae.d_sae)
        direction = sae.W_dec[name].float()
    elif kind == "tone":
        name = rng.choice([*tones])
        direction = tones[name]
    else:
        name, direction = None, torch.randn(sae.d_in, generator=generator)
    push = strength * typical * torch.nn.functional.normalize(direction, dim=0)
    return {"prompt": rng.choice(concepts().questions), "kind": kind, "push": name, "strength": strength}, push


def main() -> None:
    """Write the replies as JSON lines."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    p.add_argument("--sae", type=Path, required=True, help="folder of an SAE at layer 12")
    p.add_argument("--out", type=Path, required=True, help="file to write")
    args = p.parse_args()
    assert LAYER == 12, "pushes are at the SAE's layer"
    write_lines(args.out, make_replies(Lean(args.model), args.model, SAE.load(args.sae)))


if __name__ == "__main__":
    main()
