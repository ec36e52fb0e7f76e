"""Describe the features of a bundle's revision: `python -m recipes.describe`."""

import argparse
import itertools
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.smallworld.chats import SmallWorld
from recipes.train_model import say
from steering.catalogue.feature import write_features
from steering.interpret.describe import describe
from steering.model.activations import padded_batches, tokenize_chats
from steering.sae import SAE


def main() -> None:
    """Run the recipe on chats on which neither the model nor the SAE was trained."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--revision", default="r1")
    p.add_argument("--hook", default="layers.3")
    p.add_argument("--chats", type=int, default=6000)
    args = p.parse_args()
    bundle = Path(args.bundle)
    folder = bundle / "revisions" / args.revision
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(bundle / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundle / "model")
    chats = itertools.islice(SmallWorld(300), args.chats)
    batches = padded_batches(tokenize_chats(tokenizer, chats), batch=16, longest=256, pad=0)
    features = describe(model, tokenizer, SAE.load(folder), args.hook, batches, bundle=bundle.name)
    write_features(folder, features)
    dead = sum(f.density == 0 for f in features)
    say(
        f"{len(features)} features, {dead} never fired, {sum(f.density > 0.1 for f in features)} on more than a tenth of tokens"
    )


if __name__ == "__main__":
    main()
