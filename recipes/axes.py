"""Fit and evaluate a bundle's mood axes: `python -m recipes.axes --eval FOLDER --tones FILE`.

Emotions and sentiment are trained on GoEmotions' training texts and evaluated on its development texts; formality on
Personality Chat's professional answers against its friendly, witty and enthusiastic ones, evaluated on answers to other
questions. Baselines are a bag of the same texts' words, the stream's mean, a constant prediction, and length. Writes
`axes.json` beside the SAE and updates the checksums; prints the table for the bundle's card.
"""

import argparse
import hashlib
import itertools
import json
import lzma
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recipes.bundle import write_sums
from recipes.train_model import say
from server.sae.corpus import read_texts
from server.sae.model_loading import load_model
from steering.catalogue.bundle import Bundle
from steering.evaluate.classifiers import Auroc, auroc_with_interval, fit_cross_validated
from steering.interpret.analysis import analyse
from steering.interpret.mood_axes import MoodAxes, MoodAxis, sae_digest
from steering.model.hooks import read_stream
from steering.model.passage import chat_passage, text_passage

GROUPS = {
    "anger": ("anger", "annoyance", "disapproval"),
    "disgust": ("disgust",),
    "fear": ("fear", "nervousness"),
    "joy": (
        *("joy", "amusement", "approval", "excitement", "gratitude", "love"),
        *("optimism", "relief", "pride", "admiration", "desire", "caring"),
    ),
    "sadness": ("sadness", "disappointment", "embarrassment", "grief", "remorse"),
    "surprise": ("surprise", "realization", "confusion", "curiosity"),
}
"""Ekman's emotions, as GoEmotions' authors group their labels."""
BAD = ("anger", "disgust", "fear", "sadness")
LONGEST = 128
BATCH = 32


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts and labels of one or more axes; NaN excludes a text from an axis."""

    names: tuple[str, ...]
    ends: tuple[tuple[str, str], ...]
    """Names of the high and the low end of each axis."""
    source: str
    train: list[str]
    train_labels: torch.Tensor
    test: list[str]
    test_labels: torch.Tensor


@torch.no_grad()
def pooled(model, tokenizer, bundle: Bundle, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which features fire at all in each text, and the mean of the stream; without the beginning-of-text token."""
    ids = [list(text_passage(tokenizer, t).ids)[:LONGEST] for t in texts]
    fired = torch.zeros(len(ids), bundle.sae.d_sae)
    means = torch.zeros(len(ids), bundle.sae.d_in)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for some in (order[i : i + BATCH] for i in range(0, len(order), BATCH)):
        rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[i]) for i in some], batch_first=True)
        stream = read_stream(model, rows, bundle.info.hook).float()
        for i, x in zip(some, stream, strict=True):
            mine = x[1 : len(ids[i])]
            fired[i] = (bundle.sae.encode(mine) > 0).any(0).float()
            means[i] = mine.mean(0)
    return fired, means


def words(train: list[str], test: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the words of each text, of those that two training texts have: the baseline to be reached."""
    split = lambda t: set(re.findall(r"\w+|[^\w\s]", t.lower()))  # noqa: E731
    seen = [split(t) for t in train]
    counts: dict[str, int] = {}
    for some in seen:
        for w in some:
            counts[w] = counts.get(w, 0) + 1
    number = {w: i for i, w in enumerate(sorted(w for w, n in counts.items() if n > 1))}

    def rows(texts: list[set[str]]) -> torch.Tensor:
        found = torch.zeros(len(texts), len(number))
        for i, some in enumerate(texts):
            found[i, [number[w] for w in some if w in number]] = 1
        return found

    return rows(seen), rows([split(t) for t in test])


def emotions(folder: Path, most: int, most_test: int) -> Texts:
    """GoEmotions: six groups, each against all others, and positive against negative where a text is one of them."""

    def read(file: Path, n: int) -> tuple[list[str], torch.Tensor]:
        with lzma.open(file, "rt") if file.suffix == ".xz" else file.open() as lines:
            rows = [json.loads(line) for line in lines][:n]
        has = torch.tensor([[any(e in r["labels"] for e in g) for g in GROUPS.values()] for r in rows])
        by = dict(zip(GROUPS, has.T, strict=True))
        good, bad = by["joy"], torch.stack([by[b] for b in BAD]).any(0)
        sentiment = torch.where(good ^ bad, good.float(), torch.nan)
        return [r["text"] for r in rows], torch.cat([has.float(), sentiment[:, None]], 1)

    train = read(folder / "goemotions_train.jsonl.xz", most)
    test = read(folder / "goemotions_dev.jsonl", most_test)
    ends = (*((g, f"no {g}") for g in GROUPS), ("positive", "negative"))
    return Texts((*GROUPS, "sentiment"), ends, "GoEmotions", *train, *test)


def tones(file: Path) -> Texts:
    """Personality Chat: each distinct answer once; questions with the same professional answer are in one split."""
    with lzma.open(file, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    asked: dict[str, dict[str, str]] = {}
    for r in rows:
        asked.setdefault(r["messages"][0]["content"], {})[r["persona"]] = r["messages"][-1]["content"]
    kinds: dict[str, set[bool]] = {}
    group: dict[str, str] = {}
    for answers in asked.values():
        for persona, text in answers.items():
            if "professional" in answers and persona in ("professional", "friendly", "witty", "enthusiastic"):
                kinds.setdefault(text, set()).add(persona == "professional")
                group.setdefault(text, answers["professional"])
    one = [t for t, k in kinds.items() if len(k) == 1]
    for_test = {t: hashlib.sha256(group[t].encode()).digest()[0] % 2 == 0 for t in one}
    train, test = ([t for t in one if for_test[t] == side] for side in (False, True))
    labels = [torch.tensor([[float(True in kinds[t])] for t in texts]) for texts in (train, test)]
    return Texts(("formality",), (("formal", "casual"),), "Personality Chat", train, labels[0], test, labels[1])


def axes_of(model, tokenizer, bundle: Bundle, texts: Texts) -> list[MoodAxis]:
    """Fit the axes of some texts and evaluate them, with every row of the table."""
    say(f"{texts.source}: {len(texts.train)} texts to learn from, {len(texts.test)} to judge on")
    fired, means = pooled(model, tokenizer, bundle, texts.train)
    fired_test, means_test = pooled(model, tokenizer, bundle, texts.test)
    middle, spread = means.mean(0), means.std(0).clamp(min=1e-6)
    bags = words(texts.train, texts.test)
    kinds = {
        "features": (fired, fired_test),
        "words": bags,
        "raw": ((means - middle) / spread, (means_test - middle) / spread),
    }
    odds, heads = {}, {}
    for kind, (rows, rows_test) in kinds.items():
        heads[kind] = fit_cross_validated(rows, texts.train_labels)
        odds[kind] = heads[kind].odds(rows_test)
        say(f"{texts.source}: learnt from {kind}")
    odds["length"] = torch.tensor([[float(len(t.split()))] for t in texts.test]).expand(-1, len(texts.names))
    found = []
    for i, name in enumerate(texts.names):
        known = ~texts.test_labels[:, i].isnan()
        has = texts.test_labels[known, i].numpy() > 0.5
        of = {kind: _judged(o[known, i].double().numpy(), has, fair=kind == "length") for kind, o in odds.items()}
        found.append(
            MoodAxis(
                name=name,
                high=texts.ends[i][0],
                low=texts.ends[i][1],
                source=texts.source,
                weights=tuple(round(w, 4) for w in heads["features"].weights[:, i].tolist()),
                bias=round(float(heads["features"].bias[i]), 4),
                auroc=of["features"],
                bag_of_words=of["words"],
                raw=of["raw"],
                length=of["length"],
                n_train=int((~texts.train_labels[:, i].isnan()).sum()),
                n_test=int(known.sum()),
                prevalence=round(float(has.mean()), 4),
            )
        )
    return found


@torch.no_grad()
def errors_of(model, tokenizer, bundle: Bundle, most: int = 500) -> tuple[float, ...]:
    """Return 101 quantiles of the SAE's error on the bundle's own chats, with which a text's error is ranked."""
    file, found = bundle.folder / "corpus.jsonl.xz", []
    for text in itertools.islice(read_texts(file), most) if file.exists() else ():
        passage = text_passage(tokenizer, text) if isinstance(text, str) else chat_passage(tokenizer, text)
        stream = read_stream(model, torch.tensor([passage.ids]), bundle.info.hook)[0]
        found.append(float(analyse(bundle, passage, stream, features=1).error.nanmean()))
    return tuple(round(float(q), 4) for q in np.quantile(found, np.linspace(0, 1, 101))) if found else ()


def _judged(scores: np.ndarray, has: np.ndarray, *, fair: bool) -> Auroc:
    """`fair` uses the direction that is above chance: length may be a positive or a negative predictor."""
    found = auroc_with_interval(scores, has)
    return auroc_with_interval(-scores, has) if fair and found.value < 0.5 else found


def table(axes: MoodAxes) -> str:
    """Return the table for the bundle's card."""
    show = lambda a: f"{a.value:.3f} ({a.low:.3f} … {a.high:.3f})"  # noqa: E731
    lines = [
        f"| {a.name} | {show(a.auroc)} | {show(a.bag_of_words)} | {show(a.raw)} | {a.length.value:.3f} "
        f"| {a.n_train} / {a.n_test} | {a.prevalence:.0%} | {a.shown_as} |"
        for a in axes.axes
    ]
    head = "| axis | features | bag of words | stream's mean | length | texts learnt from / judged on | have it | shown as |"
    mean = [np.mean([getattr(a, k).value for a in axes.axes[: len(GROUPS)]]) for k in ("auroc", "bag_of_words", "raw")]
    macro = f"| six emotions, mean | {mean[0]:.3f} | {mean[1]:.3f} | {mean[2]:.3f} | | | | |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *lines, macro]) + "\n"


def main() -> None:
    """Fit, evaluate, write and print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--eval", type=Path, required=True, help="folder of goemotions_train.jsonl.xz, goemotions_dev.jsonl")
    p.add_argument("--tones", type=Path, help="personality_chat.jsonl.xz; without it there is no formality")
    p.add_argument("--train", type=int, default=6000, help="texts of GoEmotions to learn from, at most")
    p.add_argument("--test", type=int, default=2000, help="and to judge on")
    args = p.parse_args()
    bundle = Bundle.open(Path(args.bundle))
    bundle.sae.check_reads()
    model, tokenizer = load_model(bundle.model_path, "cpu")
    sets = [emotions(args.eval, args.train, args.test), *([tones(args.tones)] if args.tones else [])]
    found = [axis for texts in sets for axis in axes_of(model, tokenizer, bundle, texts)]
    axes = MoodAxes(
        method="L2 logistic regression over binarised sum-pooled features; penalty by a fifth of the training texts",
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        sae=sae_digest(bundle.sae),
        features=tuple(f.index for f in bundle.features),
        axes=tuple(found),
        errors=errors_of(model, tokenizer, bundle),
    )
    axes.save(bundle.files)
    write_sums(Path(args.bundle))
    say(table(axes))


if __name__ == "__main__":
    main()
