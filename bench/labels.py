"""Labels against blind readers: `python -m bench.labels`.

Prints how well readers detect features by their labels, and how many everyday wishes (`wishes.txt`, written before any
feature was named) search fulfils. `label_readings.jsonl` has the readers' answers: for each question the ten windows of
held-out text in which the feature fires or never does, and those in which a reader who saw only the label and the
windows expected it. Every third question shows another feature's label: the control.

    python -m bench.labels --quiz FOLDER --tokens runs/smollm2/text/learn

writes such questions for other readers, from text that the labels were not read from.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from rich.console import Console
from transformers import AutoTokenizer

from bench.share import Share
from server.features.search import Index
from server.sae.model_loading import load_model
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.interpret.label_scores import detection_trial
from steering.interpret.top_activations import LeftOut, collect_top_activations
from steering.model.activations import padded_batches
from steering.model.input_embeddings import read_input_embeddings
from steering.model.token_store import TokenStore

READINGS, WISHES = (Path(__file__).with_name(name) for name in ("label_readings.jsonl", "wishes.txt"))
FULFILLED = Path(__file__).with_name("wish_readings.tsv")
"""For each wish the position, 1 to 5, of the first feature that a reader found fitting; 0 if none was."""
BUNDLE = "sae_weights/smollm2"
QUESTIONS, CONTROLS, WINDOWS = 200, 100, 5
console = Console(width=110)


def main() -> None:
    """Score the readings, or write a quiz."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", default=BUNDLE)
    p.add_argument("--quiz", type=Path, help="folder for questions and key")
    p.add_argument("--tokens", type=Path, help="token store with text that the labels were not read from")
    p.add_argument("--skip", type=int, default=620_000, help="tokens of it that they were read from")
    p.add_argument("--most", type=int, default=250_000, help="tokens to read")
    args = p.parse_args()
    if args.quiz:
        write_quiz(Bundle.open(Path(args.bundle)), args.tokens, args.quiz, skip=args.skip, most=args.most)
        return
    for line in report():
        console.print(line)


def report() -> list[str]:
    """What readers found."""
    rows = [json.loads(line) for line in READINGS.read_text().splitlines()]
    lines = []
    for name, control in (("read labels", False), ("shuffled labels", True)):
        some = [balanced_accuracy(r["fires"], r["said"]) for r in rows if r["control"] is control]
        lines.append(f"{name}: balanced accuracy {sum(some) / len(some):.3f} over {len(some)} features")
    found = [int(line.split("\t")[1]) for line in FULFILLED.read_text().splitlines()]
    hits = sum(0 < place <= 5 for place in found)
    lines.append(f"wishes with a fitting feature in the first five: {Share(hits, len(found))}")
    return lines


def balanced_accuracy(fires: list[bool], said: list[bool]) -> float:
    """Mean of the shares that are right among the windows with and without."""
    shares = []
    for truth in (True, False):
        mine = [s is truth for f, s in zip(fires, said, strict=True) if f is truth]
        shares.append(sum(mine) / len(mine))
    return sum(shares) / 2


def first_hits(bundle: Bundle, model: str, wish: str, n: int = 5) -> list[str]:
    """Labels of the first features that search by meaning finds, as the server would."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    index = Index(
        Catalogue([bundle]),
        None,
        lambda: (
            read_input_embeddings(model),
            lambda word: tokenizer(word, add_special_tokens=False)["input_ids"],
        ),
    )
    hits = sorted(index.by_meaning(wish), key=lambda hit: -(hit[1] or 0))
    return [f.label for f, _ in hits[:n]]


def write_quiz(bundle: Bundle, tokens: Path, folder: Path, *, skip: int, most: int) -> None:
    """Write `questions.txt` and `key.jsonl`."""
    model, tokenizer = load_model(bundle.model_path, "cpu", dtype=torch.bfloat16)
    rng = random.Random(0)
    named = [f for f in bundle.features if f.label_source == "read" and f.label != "mixed" and f.density > 2e-5]
    wanted = rng.sample(named, 2 * (QUESTIONS + CONTROLS))
    sae = bundle.sae.only(torch.tensor([f.row for f in wanted]))
    batches = padded_batches(_fresh(TokenStore.open(tokens), skip, most), batch=16, longest=320, pad=2)
    left_out = LeftOut.of_model(tokenizer, bundle.info.typical_norm)
    held = collect_top_activations(model, sae, bundle.info.hook, batches, top=1, samples=2, left_out=left_out)
    trials = [(f, t) for i, f in enumerate(wanted) if (t := detection_trial(held, i, most=WINDOWS))]
    trials = trials[: QUESTIONS + CONTROLS]
    labels = [f.label for f, _ in trials]
    shuffled = labels[len(labels) // 2 :] + labels[: len(labels) // 2]
    order = rng.sample(range(len(trials)), len(trials))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "questions.txt").open("w") as sheet, (folder / "key.jsonl").open("w") as key:
        for number, i in enumerate(order, 1):
            feature, trial = trials[i]
            control = i % 3 == 2
            sheet.write(f"#{number} label: {shuffled[i] if control else labels[i]}\n")
            for j, window in enumerate(trial.ids, 1):
                text = str(tokenizer.decode([int(t) for t in window if t >= 0])).replace("\n", "⏎")
                sheet.write(f"  {j}. {text}\n")
            row = {"number": number, "feature": feature.index, "control": control, "fires": trial.fires.tolist()}
            key.write(json.dumps(row) + "\n")


def _fresh(store: TokenStore, skip: int, most: int) -> list[list[int]]:
    texts, seen = [], 0
    for i in range(len(store)):
        text = [int(t) for t in store[i]]
        seen += len(text)
        if seen > skip:
            texts.append(text)
        if seen > skip + most:
            break
    return sorted(texts, key=len)


if __name__ == "__main__":
    main()
