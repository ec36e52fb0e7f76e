"""Stage `more`: further passages of the subjects that the shipped personas are about, read as the rest of the text was.

A subject that is a few thousandths of the text gets many narrow features and no broad one. With some percent of it the SAE
has a feature that is active all through a passage: what a persona needs.
"""

import time
from pathlib import Path
from random import Random

import torch
from transformers import AutoTokenizer

from recipes.smollm2.cache import TEXTS, read_rows, system_line, write_shard
from recipes.smollm2.concepts import concepts
from recipes.smollm2.files import finish, read_lines, say, write_lines
from recipes.smollm2.lean import Lean
from recipes.smollm2.passages import passages_about
from recipes.smollm2.text import rendered

PASSAGES = {"the Golden Gate Bridge": 4000, "coffee": 700, "cats": 700, "trains": 700, "winter": 700}


def make_more(out: Path, threads: int) -> None:
    """Leave the passages in `out/more`, and shards of their stream in `out/cache/more`."""
    torch.set_num_threads(threads)
    model, tokenizer = Lean(out / "model"), AutoTokenizer.from_pretrained(out / "model")
    known = {s.name: s for s in concepts().subjects}
    rng, texts = Random("more"), list[list[int]]()
    counts = {}
    for name, wanted in PASSAGES.items():
        rows = passages_about(known[name], Random(f"more {name}"), wanted)
        counts[name] = len(rows)
        path = out / "more" / f"{name.replace(' ', '-').lower()}.jsonl"
        write_lines(path, rows)
        for row in read_lines(path):
            text = rendered(row["messages"], rng) if "messages" in row else row["text"]
            texts.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    rng.shuffle(texts)
    began, system = time.time(), system_line(out)
    for number, at in enumerate(range(0, len(texts), TEXTS)):
        folder = out / "cache" / "more" / f"{number:05}"
        if not folder.exists():
            write_shard(folder, read_rows(model, texts[at : at + TEXTS], system, seed=10_000 + number))
    tokens = sum(map(len, texts))
    say(f"more: {len(texts)} passages, {tokens} tokens, {tokens / (time.time() - began):.0f} tokens/s")
    finish(out, "more", {"passages": counts, "tokens": tokens})
