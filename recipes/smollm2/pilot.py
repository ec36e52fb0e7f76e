"""Stage `pilot`: short runs on the first shards of layer 12, and the settings that they choose."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from recipes.smollm2.cache import rows_in, shards_in
from recipes.smollm2.files import Record, finish, say, write_json
from recipes.smollm2.runs import CANDIDATES, PILOT_ROWS, chosen
from recipes.smollm2.sae import halves, train
from steering.evaluate.sae_metrics import measure_sae


def make_pilot(out: Path, threads: int) -> None:
    """Record each candidate's figures on held-out chats and prose."""
    torch.set_num_threads(threads)
    shards, rows = [], 0
    for shard in shards_in(out, "learn"):
        if rows < PILOT_ROWS:
            shards.append(shard)
            rows += rows_in(shard)
    figures: Record = {}
    for name, run in CANDIDATES.items():
        folder = out / "pilot" / name
        folder.mkdir(parents=True, exist_ok=True)
        calibrating, testing = halves(out, run.layer)
        done = folder / "figures.json"
        if not done.exists():
            sae, seconds, tokens = train(run, shards, calibrating, rows, folder)
            found = {kind: asdict(measure_sae(sae, testing[kind].split(4096))) for kind in ("prose", "chats")}
            write_json(
                done, {"run": asdict(run), "seconds_since_last_start": seconds, "tokens": tokens, "held_out": found}
            )
        figures[name] = json.loads(done.read_text())
        mean = _explained(figures[name])
        say(f"pilot: {name} explains {mean:.4f}")
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    choice = chosen({name: _explained(f) for name, f in figures.items()})
    say(f"pilot: chosen {choice}")
    finish(out, "pilot", {"rows": rows, "candidates": figures, "chosen": asdict(choice)})
    shutil.rmtree(out / "pilot")


def _explained(figures: Record) -> float:
    """Of held-out chats and prose, the mean."""
    held = figures["held_out"]
    return (held["prose"]["explained_variance"] + held["chats"]["explained_variance"]) / 2
