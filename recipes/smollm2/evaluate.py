"""Stages `evaluate:NAME`: what an SAE is worth on text that it never saw, kind by kind, beside random directions.

Explained variance, L0 and the share that never fires come from the held-out half of the cache; what the model loses,
from reading the SAE's reconstruction in its place in bfloat16. The random dictionary has the same shape and L0.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from recipes.smollm2.cache import rows_of, shards_in
from recipes.smollm2.files import Record, finish, record_of, say
from recipes.smollm2.sae import halves
from recipes.smollm2.text import KINDS
from steering.evaluate.loss_recovered import loss_recovered
from steering.evaluate.sae_metrics import measure_sae
from steering.model.activations import padded_batches
from steering.model.token_store import TokenStore
from steering.sae import SAE

SPLICED = 80
"""Texts of each kind in which the model reads the reconstruction."""
WINDOW = 2_000_000
"""Cached rows over which a feature may fire before it counts as dead."""


def evaluate(out: Path, name: str, threads: int) -> None:
    """Record the figures of `out/sae/NAME`."""
    torch.set_num_threads(threads)
    trained = record_of(out, f"sae-{name}")
    assert trained is not None, name
    layer, k = trained["run"]["layer"], trained["run"]["k"]
    sae = SAE.load(out / "sae" / name)
    calibrating, testing = halves(out, layer)
    random = random_like(sae, torch.cat([*calibrating.values()]), k)
    model = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.bfloat16).eval()
    figures: Record = {}
    for kind in KINDS:
        texts = TokenStore.open(out / "text" / f"held-{kind}")
        some = [texts[i] for i in range(len(texts) // 2, min(len(texts), len(texts) // 2 + SPLICED))]
        batches = list(padded_batches(some, batch=8, longest=320, pad=2))
        figures[kind] = {
            which: _measured(s, testing[kind]) | asdict(loss_recovered(model, s, batches, f"layers.{layer}"))
            for which, s in (("trained", sae), ("random", random))
        }
        f = figures[kind]["trained"]
        say(f"{name} on {kind}: EV {f['explained_variance']:.4f} L0 {f['l0']:.1f} recovered {f['recovered']:.4f}")
    both = torch.cat([testing["prose"], testing["chats"]])
    record = {"held_out": figures, "chats_and_prose": _measured(sae, both), "dead": _dead(out, sae, layer)}
    finish(out, f"evaluate-{name}", record)


def random_like(sae: SAE, rows: Tensor, k: int, seed: int = 0) -> SAE:
    """Random unit directions, each read as it is written, with the one threshold that keeps `k`."""
    W_dec = torch.randn(sae.W_dec.shape, generator=torch.Generator().manual_seed(seed))
    W_dec = torch.nn.functional.normalize(W_dec, dim=1)
    middle = rows.mean(0)
    threshold = torch.zeros(sae.d_sae)
    return SAE(W_dec.T.contiguous(), -(W_dec @ middle), W_dec, middle, threshold).calibrated(rows, k)


def _measured(sae: SAE, rows: Tensor) -> Record:
    found = asdict(measure_sae(sae, rows.split(4096)))
    return {("rows" if k == "tokens" else k): v for k, v in found.items()}


def _dead(out: Path, sae: SAE, layer: int) -> Record:
    """The features that fire nowhere in a long stretch of what was learnt from, and their share."""
    fired, n = torch.zeros(sae.d_sae, dtype=torch.bool), 0
    for shard in shards_in(out, "learn"):
        for x in rows_of(shard, layer).float().split(8192):
            fired |= (sae.encode(x) > 0).any(0)
            n += len(x)
        if n >= WINDOW:
            break
    silent = (~fired).nonzero()[:, 0].tolist()
    return {"share": len(silent) / sae.d_sae, "rows": n, "features": silent}
