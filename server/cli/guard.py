"""`tiller guard …`: train the guards' probe, and score texts with it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from rich.table import Table
from rich.text import Text
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from server.cli.errors import or_exit
from server.cli.options import settings_from_options
from server.cli.terminal import TerminalConsole
from server.sae.corpus import read_texts
from server.sae.model_loading import load_model
from steering.catalogue.bundle import Bundle
from steering.model.chat_template import Message
from steering.model.hooks import read_stream
from steering.safety.probe import WITNESS, Probe, check_hook_below, hook_below, tokens_to_score, train_probe

T = TypeVar("T")
LONGEST = 1024
"""Maximum number of tokens read of a text."""
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Train and test the probe that guards replies; see docs/guides/guards.md.",
)
console = TerminalConsole()

Bundle_ = Annotated[
    Path | None,
    typer.Option(
        "--bundle", envvar="TILLER_BUNDLE", help="Folder with bundle.json: the model, and where it is steered."
    ),
]
Model_ = Annotated[
    str | None, typer.Option("--model", envvar="TILLER_MODEL", help="Folder or hub id instead of the bundle's model.")
]


@app.command("train")
def train_(
    forbidden: Annotated[
        Path,
        typer.Option(
            help="Prompts, one per line, or JSONL with `messages`; of a chat with a reply, only the reply is read."
        ),
    ],
    benign: Annotated[
        Path,
        typer.Option(help="The same format, harmless, and otherwise as similar to the forbidden ones as possible."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the probe.")],
    hook: Annotated[
        str | None, typer.Option(help="Hook point of the probe; default: just below the steered layer.")
    ] = None,
    allowed: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of held-out benign texts that may be flagged.")
    ] = 0.01,
    bundle: Bundle_ = None,
    model: Model_ = None,
) -> None:
    """Train a probe on forbidden and benign texts, a third of them held out, and print its evaluation.

    Example: tiller guard train --forbidden bad.jsonl --benign fine.jsonl --out probe
    """

    def work() -> Probe:
        opened, found, tokenizer = _open_bundle(bundle, model)
        place = hook or hook_below(opened.info.hook)
        check_hook_below(place, opened.info.hook)
        with console.status("reading"):
            bad, fine = (_streams(found, tokenizer, read_texts(path), place) for path in (forbidden, benign))
            witness = read_stream(found, torch.tensor([WITNESS]), place)[0, -1]
        probe = train_probe(bad, fine, witness, hook=place, model=model or opened.info.name, allowed=allowed)
        probe.save(out)
        return probe

    console.print(_card(or_exit(work)))
    console.print(f"written to {out}; on other texts it will do worse: keep some aside and test them")


@app.command("read")
def test_texts(
    probe: Annotated[Path, typer.Argument(help="Folder of the probe.")],
    text: Annotated[str, typer.Argument(help="A question, or a file: lines, or JSONL with `text` or `messages`.")],
    bundle: Bundle_ = None,
    model: Model_ = None,
) -> None:
    """Print a probe's scores of texts, and the position of each.

    Example: tiller guard read probe "How do I open it?"
    """

    def work() -> Table:
        found, (_, model_, tokenizer) = Probe.load(probe), _open_bundle(bundle, model)
        found.check_model(read_stream(model_, torch.tensor([WITNESS]), found.hook)[0])
        texts = list(read_texts(Path(text))) if _is_file(text) else [text]
        table = Table("score", f"above {found.card.threshold:.3f}", "most at", "text")
        for one in texts:
            ids, start = tokens_to_score(tokenizer, one)
            ids = ids[:LONGEST]
            scores = found.token_scores(read_stream(model_, torch.tensor([ids]), found.hook)[0, start:])
            most = int(scores.argmax()) if len(scores) else 0
            context = tokenizer.decode(list(ids[start : start + most + 1])[-6:]) if len(scores) else ""
            score = float(scores.max()) if len(scores) else 0.0
            verdict = Text("forbidden", style="red") if score > found.card.threshold else Text("benign")
            table.add_row(f"{score:.3f}", verdict, str(context), _excerpt(one))
        return table

    console.print(or_exit(work))


def _streams(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str | list[Message]], hook: str
) -> list[Tensor]:
    """The residual stream of each text, from the first scored token on; texts without one are left out."""
    rows = [tokens_to_score(tokenizer, text) for text in texts]
    kept = [(ids[:LONGEST], start) for ids, start in rows if start < min(len(ids), LONGEST)]
    return [read_stream(model, torch.tensor([ids]), hook)[0, start:] for ids, start in kept]


def _card(probe: Probe) -> Table:
    c, table = probe.card, Table("probe", "")
    auroc = f"{c.auroc.value:.3f} ({c.auroc.low:.3f} … {c.auroc.high:.3f})"
    table.add_row("reads", f"{c.hook} of {c.model}")
    table.add_row("learnt from", f"{c.forbidden} forbidden texts, {c.benign} benign")
    table.add_row("held out", f"{c.held_out_forbidden} forbidden, {c.held_out_benign} benign")
    table.add_row("AUROC there", auroc)
    table.add_row("threshold", f"{c.threshold:.3f}")
    table.add_row("flags of the forbidden", f"{c.found:.1%}")
    table.add_row("flags of the benign", f"{c.false_positives:.1%} (at most {c.allowed:.1%} were allowed)")
    return table


def _excerpt(text: str | list[Message]) -> str:
    content = text if isinstance(text, str) else text[-1]["content"]
    return content if len(content) <= 60 else content[:59] + "…"


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # too long for a name
        return False


def _open_bundle(bundle: Path | None, model: str | None) -> tuple[Bundle, PreTrainedModel, PreTrainedTokenizerFast]:
    opened = Bundle.open(settings_from_options(bundle=bundle).bundle)
    found, tokenizer = load_model(model or opened.model_path, "cpu")
    return opened, found, tokenizer
