"""Stages `bundle`, `describe` and `labels`: the folder that is shipped, with the SAE in float16, a description of each
feature, and the label that a reader gave it.

The descriptions come from held-out text of all kinds and as much of the rest as makes `DESCRIBED` tokens. `labels.tsv`
belongs to one SAE: readers saw its features' examples. Another SAE wants other readers.
"""

import hashlib
import json
import lzma
from itertools import chain
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.smollm2.concepts import concepts
from recipes.smollm2.files import finish, read_lines, record_of, say, write_json
from recipes.smollm2.model import PACKAGE
from recipes.smollm2.text import KINDS
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature, write_features
from steering.interpret.describe import describe
from steering.model.activations import padded_batches
from steering.model.token_store import TokenStore
from steering.sae import SAE, WEIGHTS

NAME, REVISION, MODEL = "smollm2", "r1", "SmolLM2-135M-Instruct"
DESCRIBED = 480_000
"""Tokens that the descriptions come from."""
EXAMPLES = 5
LOADS = (1.0, 2.05)
"""Loads above which the forecast says strained, and broken: beyond one full dose, and where readers begin to call replies
broken (`python -m bench.forecast`)."""
SAMPLING = {"temperature": 0.4, "top_p": 0.9, "repetition_penalty": 1.1}
"""What the model reads well with; greedily it repeats itself."""
PASSAGES = 1_500
"""Passages in the bundle's corpus."""
LABELS = Path(__file__).with_name("labels.tsv")
READ_OF = "3c65e2a3ea620fdd3b04ba96caa854f28169be66523197710adc7170a9074dc9"
"""SHA-256 of the SAE's file whose features the readers saw."""
READ_NOTE = "read 2026-11-30"


def make_bundle(out: Path) -> None:
    """Write `out/bundle`: `bundle.json` and the SAE, without the features that never fired."""
    trained, measured = record_of(out, "sae-final"), record_of(out, "evaluate-final")
    assert trained is not None and measured is not None
    hook = f"layers.{trained['run']['layer']}"
    whole = SAE.load(out / "sae" / "final")
    silent = set(measured["dead"]["features"])
    sae = whole.only(torch.tensor([i for i in range(whole.d_sae) if i not in silent]))
    about = {"trained": {**trained["run"], "tokens": trained["tokens"], "model": MODEL, "recipe": "recipes/smollm2"}}
    folder = out / "bundle" / "revisions" / REVISION
    sae.save(folder, hook=hook, model=MODEL, about=about, dtype=torch.float16)
    found = measured["chats_and_prose"]
    metrics = {
        "explained_variance": round(found["explained_variance"], 4),
        "l0": round(found["l0"], 2),
        "recovered_prose": round(measured["held_out"]["prose"]["trained"]["recovered"], 4),
        "recovered_chats": round(measured["held_out"]["chats"]["trained"]["recovered"], 4),
    }
    write_json(
        out / "bundle" / "bundle.json",
        {
            "name": NAME,
            "model": MODEL,
            "package": PACKAGE.model_dump(),
            "hook": hook,
            "revision": REVISION,
            "typical_norm": round(trained["typical_norm"], 3),
            "scope": "all",
            "sampling": SAMPLING,
            "strained_load": LOADS[0],
            "broken_load": LOADS[1],
            "license": "Apache-2.0",
            "metrics": metrics,
        },
    )
    write_corpus(out)
    finish(out, "bundle", {"features": sae.d_sae, "left_out": len(silent), "metrics": metrics})


def write_corpus(out: Path, seed: int = 0) -> None:
    """Write `corpus.jsonl.xz`, what updates of the SAE keep explaining: original passages, and the model's own replies to
    original questions.
    """
    questions = {*concepts().questions}
    passages = [row for file in sorted((out / "passages").glob("*.jsonl")) for row in read_lines(file)]
    replies = [row["messages"] for file in sorted((out / "replies").glob("*.jsonl")) for row in read_lines(file)]
    own = [{"messages": chat} for chat in replies if chat[-2]["content"] in questions]
    rng = Random(seed)
    rows = rng.sample(passages, PASSAGES) + own
    rng.shuffle(rows)
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    (out / "bundle" / "corpus.jsonl.xz").write_bytes(lzma.compress(text.encode(), preset=9))


def make_descriptions(out: Path, threads: int) -> None:
    """Write `features.jsonl` of `out/bundle`."""
    torch.set_num_threads(threads)
    trained = record_of(out, "sae-final")
    assert trained is not None
    model = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    texts = _texts(out)
    folder = out / "bundle" / "revisions" / REVISION
    batches = padded_batches(texts, batch=16, longest=320, pad=2)
    features = describe(
        model,
        tokenizer,
        SAE.load(folder),
        f"layers.{trained['run']['layer']}",
        batches,
        bundle=NAME,
        examples=EXAMPLES,
        typical_norm=trained["typical_norm"],
    )
    write_features(folder, features)
    finish(out, "describe", {"tokens": sum(map(len, texts)), "texts": len(texts), **counts(features)})


def make_labels(out: Path) -> None:
    """Give each described feature of `out/bundle` its label from `labels.tsv`, and score what readers blindly detected."""
    folder = out / "bundle" / "revisions" / REVISION
    trained = record_of(out, "sae-final")
    if hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() != READ_OF:
        raise SystemExit("labels.tsv was read from another SAE's features; read the examples, and write it anew")
    assert trained is not None
    labels = read_labels()
    features = [
        f.model_copy(update={"label": labels[f.index].text, "label_source": "read", "note": READ_NOTE})
        if f.index in labels and f.examples
        else f
        for f in Bundle.open(out / "bundle").features
    ]
    write_features(folder, features)
    named = [labels[f.index].text for f in features if f.label_source == "read"]
    finish(out, "labels", {"read": len(named), "mixed": named.count("mixed"), "sae": READ_OF})


class Label(NamedTuple):
    """What a reader called a feature, and of which sort it is: T subject, S style, D what the text does, W word, G grammar or
    position, M mixed.
    """

    text: str
    sort: str


def read_labels() -> dict[int, Label]:
    """Labels by number of the feature."""
    rows = (line.split("\t") for line in LABELS.read_text(encoding="utf-8").splitlines()[1:])
    return {int(index): Label(text, sort) for index, text, sort in rows}


def counts(features: list[Feature]) -> dict[str, int]:
    """How many features there are of each kind."""
    return {"features": len(features)} | {
        kind: sum(kind in f.kind for f in features) for kind in ("dead", "dense", "input-only")
    }


def _texts(out: Path) -> list[list[int]]:
    held = [TokenStore.open(out / "text" / f"held-{kind}") for kind in KINDS]
    learn = TokenStore.open(out / "text" / "learn")
    texts, tokens = list[list[int]](), 0
    for store, i in chain(((s, i) for s in held for i in range(len(s))), ((learn, i) for i in range(len(learn)))):
        text = [int(t) for t in store[i]]
        texts.append(text)
        tokens += len(text)
        if tokens >= DESCRIBED:
            break
    say(f"describe: {len(texts)} texts, {tokens} tokens")
    return sorted(texts, key=len)
