"""Duration of describing features: `python -m bench.describe` times every feature of a widened SAE on the embedded
corpus.

The embedded SAE is widened by repeating its rows with a little noise, so that the features are realistic. All of
`describe` is timed; the memory is the peak of the process, model included. With `--label`, labels are made and scored
as well. One process, with torch's number of threads (OMP_NUM_THREADS).
"""

import argparse
import os
import resource
import sys
import time
from collections import Counter
from dataclasses import replace

import torch

from server.jobs.tasks.label import LabelConfig, label_features
from server.jobs.tasks.publish import MeasurementInputs, with_progress
from server.sae.corpus import corpus_token_ids
from server.sae.model_loading import load_model
from server.settings import EMBEDDED, Settings
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature
from steering.interpret.describe import describe
from steering.sae import SAE

GOAL = 600.0
"""Seconds for 4,096 features."""


def widened(sae: SAE, features: int, noise: float = 0.02) -> SAE:
    """Return an SAE of the given width, each row one of the SAE's with a little noise; thresholds are unchanged."""
    g = torch.Generator().manual_seed(0)
    rows = torch.arange(features) % sae.d_sae
    wide = sae.only(rows)
    W_dec = torch.nn.functional.normalize(wide.W_dec + noise * torch.randn(wide.W_dec.shape, generator=g), dim=1)
    W_enc = wide.W_enc + noise * wide.W_enc.norm(dim=0) * torch.randn(wide.W_enc.shape, generator=g) / sae.d_in**0.5
    return replace(wide, W_enc=W_enc, W_dec=W_dec)


def show(what: str, found: str) -> None:
    """Print one line."""
    sys.stdout.write(f"{what:14} {found}\n")


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--features", type=int, default=4096)
    p.add_argument("--texts", type=int, default=None)
    p.add_argument("--label", action="store_true")
    args = p.parse_args()
    settings = Settings(bundle=EMBEDDED, corpus=(EMBEDDED / "corpus.jsonl.xz",))
    shipped = Bundle.open(EMBEDDED)
    model, tokenizer = load_model(shipped.model_path, "cpu")
    texts = corpus_token_ids(settings, tokenizer, longest=256)[: args.texts]
    sae = widened(shipped.sae, args.features)
    begun = time.monotonic()
    batches = with_progress(texts, lambda *_: None)
    found = describe(model, tokenizer, sae, shipped.info.hook, batches, bundle="wide")
    took = time.monotonic() - begun
    size = sum(len(f.line().encode()) for f in found)
    kinds = Counter(kind for f in found for kind in f.kind)
    show("features", f"{len(found)}, of them {', '.join(f'{n} {k}' for k, n in kinds.items()) or 'none of a kind'}")
    show("texts", f"{len(texts)}, {sum(map(len, texts))} tokens")
    show("describing", f"{took:.0f} s ({os.cpu_count()} cores, {torch.get_num_threads()} threads)")
    show("features.jsonl", f"{size / 1e6:.1f} MB, {size / len(found):.0f} bytes a feature")
    if args.features == 4096:
        show("goal", f"{GOAL:.0f} s: {'met' if took <= GOAL else 'not met'}")
    if args.label:
        features = [Feature(id=f"wide/{f.index}", index=f.index, top_logits=f.top_logits) for f in found]
        bundle = replace(shipped, sae=sae, features=features)
        begun = time.monotonic()
        figures = label_features(
            MeasurementInputs(model, tokenizer, bundle, texts), LabelConfig(), None, lambda *_: None
        ).figures
        show("labelling", f"{time.monotonic() - begun:.0f} s; {', '.join(f'{k} {v:g}' for k, v in figures.items())}")
    show("most memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
