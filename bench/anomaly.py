"""Anomaly detection by an SAE's error: `python -m bench.anomaly` prints its AUROC beside that of other signals.

Normal texts are held-out chats of the bundle's corpus; anomalous ones are the same chats with their words shuffled,
chats of random tokens, and another domain's texts: those of `--domain`, or prose that is part of the repository. Each
is a question and an answer in the model's template, and a signal is its mean over their tokens. Mahalanobis distance
(Ledoit–Wolf shrinkage), the residual of as many principal components as the SAE's L0, and a dense autoencoder of the
SAE's size are fitted to the stream of other chats of the corpus; perplexity is the model's own.
"""

import argparse
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from server.sae.corpus import SAMPLE, read_texts
from server.sae.model_loading import load_model
from steering.catalogue.bundle import Bundle
from steering.errors import BadChat
from steering.evaluate.classifiers import Auroc, auroc_with_interval
from steering.model.chat_template import Message
from steering.model.hooks import record
from steering.model.passage import NOBODY, Passage, chat_passage

Signal = Callable[[Tensor], Tensor]
"""Rows of the stream → anomaly score of each."""
ROWS = 60_000


@dataclass(frozen=True, eq=False)
class Read:
    """One text: the stream of its own tokens, and the model's surprise at them."""

    stream: Tensor
    surprise: float


@torch.no_grad()
def read(model: PreTrainedModel, passage: Passage, hook: str) -> Read:
    """Read a chat, without the template's tokens."""
    ids, mine = torch.tensor([passage.ids]), torch.tensor([p != NOBODY for p in passage.part])
    with record(model, [hook]) as seen:
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    lost = nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return Read(seen[hook][0][mine].float(), float(lost[mine[1:]].mean()))


def mahalanobis(rows: Tensor) -> Signal:
    """Squared Mahalanobis distance from the mean, with the covariance of Ledoit and Wolf (2004)."""
    middle = rows.mean(0)
    x = (rows - middle).double()
    n, d = x.shape
    s = x.T @ x / n
    level = s.trace() / d
    spread = (s - level * torch.eye(d)).pow(2).sum()
    noise = ((x.pow(2).sum(1).pow(2).sum() - n * s.pow(2).sum()) / n**2).clamp(max=float(spread))
    shrunk = noise / spread * level * torch.eye(d) + (1 - noise / spread) * s
    inverse = torch.linalg.inv(shrunk).float()
    return lambda y: ((y - middle) @ inverse * (y - middle)).sum(1)


def components(rows: Tensor, k: int) -> Signal:
    """Squared norm of the residual of the first principal components."""
    middle = rows.mean(0)
    kept = torch.linalg.eigh((rows - middle).T @ (rows - middle))[1][:, -k:]
    return lambda y: _left(y, middle + (y - middle) @ kept @ kept.T)


def dense(rows: Tensor, d_hidden: int, seconds: float) -> Signal:
    """Squared error of an autoencoder with as many units and no sparsity, trained for `steps` steps."""
    torch.manual_seed(0)
    middle, scale = rows.mean(0), rows.std()
    net = nn.Sequential(nn.Linear(rows.shape[1], d_hidden), nn.ReLU(), nn.Linear(d_hidden, rows.shape[1]))
    search, end = torch.optim.Adam(net.parameters(), 1e-3), time.monotonic() + seconds
    while time.monotonic() < end:
        x = (rows[torch.randint(len(rows), (512,))] - middle) / scale
        search.zero_grad()
        (net(x) - x).pow(2).mean().backward()
        search.step()

    @torch.no_grad()
    def signal(y: Tensor) -> Tensor:
        return _left(y, middle + scale * net((y - middle) / scale))

    return signal


def kinds_of(
    bundle: Bundle, tokenizer: PreTrainedTokenizerFast, domain: Path | None, n: int
) -> dict[str, list[Passage]]:
    """Return chats to fit to, normal ones, and the anomalous ones."""
    chats = [t[:2] for t in read_texts(bundle.folder / "corpus.jsonl.xz") if not isinstance(t, str)]
    random.Random(0).shuffle(chats)
    usual, rest = chats[:n], chats[n:]
    draw = random.Random(1)
    ids = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))

    def shuffled(message: Message) -> Message:
        words = message["content"].split()
        return {**message, "content": " ".join(draw.sample(words, len(words)))}

    def noise(message: Message) -> Message:
        size = len(tokenizer(message["content"], add_special_tokens=False)["input_ids"])
        return {**message, "content": str(tokenizer.decode(draw.choices(ids, k=size)))}

    kinds = {
        "fit": rest,
        "usual": usual,
        "shuffled words": [[shuffled(m) for m in c] for c in usual],
        "random tokens": [[noise(m) for m in c] for c in usual],
        "another domain": list(itertools.islice(_pairs(domain or SAMPLE), n)),
    }
    return {kind: list(_passages(tokenizer, some)) for kind, some in kinds.items()}


def _pairs(file: Path) -> Iterator[list[Message]]:
    """Texts, two by two, as question and answer."""
    texts = (t for t in read_texts(file) if isinstance(t, str))
    for one in texts:
        if other := next(texts, None):
            yield [{"role": "user", "content": one}, {"role": "assistant", "content": other}]


def _passages(tokenizer: PreTrainedTokenizerFast, chats: list[list[Message]]) -> Iterator[Passage]:
    for chat in chats:
        try:
            passage = chat_passage(tokenizer, chat).until(512)
        except BadChat:  # random tokens may form a marker of the template
            continue
        if any(p != NOBODY for p in passage.part):
            yield passage


def _left(y: Tensor, told: Tensor) -> Tensor:
    return (y - told).pow(2).sum(1) / y.pow(2).sum(1).clamp(min=1e-9)


def figures(bundle: Bundle, domain: Path | None, n: int, seconds: float) -> dict[str, dict[str, Auroc]]:
    """Return AUROC against normal chats, by signal and kind of text."""
    model, tokenizer = load_model(bundle.model_path, "cpu")
    kinds = kinds_of(bundle, tokenizer, domain, n)
    texts = {kind: [read(model, p, bundle.info.hook) for p in some] for kind, some in kinds.items()}
    rows = torch.cat([r.stream for r in texts.pop("fit")])[:ROWS]
    a = bundle.sae.encode(rows[:4096])
    signals: dict[str, Signal] = {
        "SAE's error": lambda y: _left(y, bundle.sae.reconstruct(y)),
        "SAE's error, absolute": lambda y: (y - bundle.sae.reconstruct(y)).pow(2).sum(1),
        "Mahalanobis": mahalanobis(rows),
        "principal components": components(rows, round(float((a > 0).sum(1).float().mean()))),
        "dense autoencoder": dense(rows, bundle.sae.d_sae, seconds),
    }
    scores = {
        name: {kind: [float(signal(r.stream).mean()) for r in some] for kind, some in texts.items()}
        for name, signal in signals.items()
    }
    scores["perplexity"] = {kind: [r.surprise for r in some] for kind, some in texts.items()}
    lengths = {kind: [float(len(r.stream)) for r in some] for kind, some in texts.items()}
    scores["length alone"] = lengths
    return {name: _against(by) for name, by in scores.items()}


def _against(by: dict[str, list[float]]) -> dict[str, Auroc]:
    found = {}
    for kind in by.keys() - {"usual"}:
        values = np.array([*by[kind], *by["usual"]])
        found[kind] = auroc_with_interval(values, np.arange(len(values)) < len(by[kind]))
    return found


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default="sae_weights/harbor")
    p.add_argument("--domain", type=Path, help="texts of another kind: lines, or JSONL with `text`")
    p.add_argument("--texts", type=int, default=300, help="of each kind, at most")
    p.add_argument("--seconds", type=float, default=60, help="for which the dense autoencoder is trained")
    args = p.parse_args()
    found = figures(Bundle.open(args.bundle), args.domain, args.texts, args.seconds)
    kinds = ("shuffled words", "another domain", "random tokens")
    table = Table("AUROC against usual chats", *kinds)
    for name, by in found.items():
        table.add_row(name, *(f"{by[k].value:.3f} ({by[k].low:.3f} … {by[k].high:.3f})" for k in kinds))
    Console(file=sys.stdout, width=120).print(table)


if __name__ == "__main__":
    main()
