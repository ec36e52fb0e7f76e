"""Train the embedded SAE on the embedded model's stream: `python -m recipes.train_sae --bundle sae_weights/harbor`.

The training itself is in `steering.train`.
"""

import argparse
import itertools
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.smallworld.chats import SmallWorld
from recipes.train_model import say
from steering.evaluate.sae_metrics import measure_sae
from steering.model.activations import ActivationStream, activations, padded_batches, tokenize_chats
from steering.model.token_store import TokenStore
from steering.train.objectives import BatchTopK
from steering.train.trainer import TrainingRecipe, train


def main() -> None:
    """Run the recipe and write one revision of the bundle."""
    args = _arguments()
    bundle = Path(args.bundle)
    torch.manual_seed(args.seed)
    model = AutoModelForCausalLM.from_pretrained(bundle / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundle / "model")

    def stream(seed: int) -> itertools.chain[torch.Tensor]:
        rows = tokenize_chats(tokenizer, SmallWorld(seed))
        return itertools.chain.from_iterable(
            part.split(8192)
            for part in activations(model, padded_batches(rows, batch=64, longest=512, pad=0), args.hook)
        )

    held_out = _take(stream(args.seed + 101), 60_000)
    recipe = TrainingRecipe(BatchTopK(k=args.k), d_sae=args.d_sae, steps=args.steps, seed=args.seed, lr=args.lr)
    chats = itertools.islice(tokenize_chats(tokenizer, SmallWorld(args.seed + 100)), args.chats)
    batches = ActivationStream(
        model, TokenStore.gather(chats), args.hook, rows=args.rows, buffer=args.buffer, seed=args.seed, passes=10
    )
    start, sae = time.time(), None
    for progress in train(batches, recipe, held_out=held_out[:30_000]):
        if progress.sae or progress.step % 100 == 0:
            say(
                f"{progress.step} loss {progress.loss:.4f} ev {progress.explained_variance:.3f} dead {progress.dead} {time.time() - start:.0f}s"
            )
        sae = progress.sae
    assert sae is not None
    test = itertools.islice(stream(args.seed + 102), args.test // 8192 * 4)
    measures = measure_sae(sae, test)
    say(str(measures))
    folder = bundle / "revisions" / args.revision
    sae.save(folder, hook=args.hook, model="embedded", about={"k": args.k, "steps": args.steps})
    norm = float(held_out.norm(dim=1).median())
    record = {"arguments": vars(args), "recipe": asdict(recipe), "measures": asdict(measures), "typical_norm": norm}
    (folder / "recipe.json").write_text(json.dumps(record, indent=1) + "\n")


def _take(parts: itertools.chain[torch.Tensor], rows: int) -> torch.Tensor:
    held: list[torch.Tensor] = []
    while sum(map(len, held)) < rows:
        held.append(next(parts))
    return torch.cat(held)[:rows]


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--hook", default="layers.3")
    p.add_argument("--revision", default="r1")
    p.add_argument("--d-sae", type=int, default=2048)
    p.add_argument("--k", type=int, default=32)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--steps", type=int, default=1200)
    p.add_argument("--rows", type=int, default=2048)
    p.add_argument("--chats", type=int, default=40_000)
    p.add_argument("--buffer", type=int, default=200_000)
    p.add_argument("--test", type=int, default=200_000)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


if __name__ == "__main__":
    main()
