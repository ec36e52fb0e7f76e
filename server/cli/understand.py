"""`tiller contrast`, `attribute` and `diff`: features of texts, of a token, and of two checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from server.cli.errors import or_exit
from server.cli.options import settings_from_options
from server.cli.tables import print_table
from server.cli.terminal import TerminalConsole
from server.features.read_text import encode_prompt
from server.sae.corpus import read_texts, tokenize_texts
from server.sae.model_loading import load_model
from steering.catalogue.bundle import Bundle
from steering.errors import SteeringError
from steering.interpret.attribution import attribute as explain
from steering.interpret.attribution import token_of
from steering.interpret.contrast import FiringCounts, Separating, count_firings
from steering.interpret.contrast import contrast as hold
from steering.interpret.model_diff import FiringRates, check_fits, diff_models, firing_rates
from steering.model.chat_template import Message
from steering.model.hooks import read_stream
from steering.model.passage import chat_passage, text_passage

T = TypeVar("T")
LONGEST = 512
AT_ONCE = 64
UNEVEN = 1.2
"""Ratio of the sides' mean document lengths above which a warning is printed."""
console = TerminalConsole()

Bundle_ = Annotated[
    Path | None, typer.Option("--bundle", envvar="TILLER_BUNDLE", help="Folder with bundle.json: model, SAE, labels.")
]
Model_ = Annotated[
    str | None, typer.Option("--model", envvar="TILLER_MODEL", help="Folder or hub id instead of the bundle's model.")
]
Texts = Annotated[Path, typer.Argument(help="Lines, or JSONL with `text` or `messages`; one document per line.")]
Top = Annotated[int, typer.Option("--top", min=1, help="Number of features per direction.")]


def contrast(
    a: Texts,
    b: Texts,
    by: Annotated[
        str, typer.Option(help="any: whether it is active in a document; mean: its mean activation.")
    ] = "any",
    top: Top = 20,
    bundle: Bundle_ = None,
    model: Model_ = None,
) -> None:
    """Print the features that separate two sets of texts.

    Example: tiller contrast with.jsonl without.jsonl --top 10
    """

    def work() -> None:
        if by not in ("any", "mean"):
            raise SteeringError(f"--by {by!r} is neither 'any' nor 'mean'")
        opened, model_, tokenizer = _load(bundle, model)
        opened.sae.check_reads()
        found = hold(*(_record_firings(opened, model_, tokenizer, path) for path in (a, b)), by=by)  # type: ignore[arg-type]
        n, m = found.documents
        for title, sign in ((f"more in {a.name}", 1), (f"more in {b.name}", -1)):
            console.print(_print_separating(title, found.top(sign, top), opened))
        console.print(
            f"{found.discoveries} of {len(found.features)} features that fire separate {n} documents from {m}, at a "
            f"false-discovery rate of 5 % (✓); {found.tokens[0] / n:.0f} and {found.tokens[1] / m:.0f} tokens a document"
        )
        if by == "any" and not 1 / UNEVEN < (found.tokens[0] / n) / (found.tokens[1] / m) < UNEVEN:
            console.print(
                "one side's documents are longer, and longer ones have more active features: also try --by mean"
            )

    or_exit(work)


def attribute(
    prompt: Annotated[str, typer.Argument(help="The prompt; raw text with --plain.")],
    target: Annotated[
        str | None, typer.Option(help="The token to explain; default: the model's most likely next token.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A second token to contrast with: why the target and not this one.")
    ] = None,
    begun: Annotated[str, typer.Option(help="Beginning of the assistant's reply.")] = "",
    plain: Annotated[
        bool, typer.Option("--plain", help="The prompt is raw text to continue, not a chat message.")
    ] = False,
    top: Annotated[int, typer.Option("--top", min=1, max=64)] = 10,
    bundle: Bundle_ = None,
    model: Model_ = None,
) -> None:
    """Attribute the next token to features, by gradient and by ablation.

    Example: tiller attribute "What is the nut of an oak tree called?" --begun "It is called an"
    """

    def work() -> None:
        opened, model_, tokenizer = _load(bundle, model)
        aims = [None if t is None else token_of(tokenizer, t) for t in (target, against)]
        messages: list[Message] = [{"role": "user", "content": prompt}]
        messages += [{"role": "assistant", "content": begun}] if begun else []
        ids = encode_prompt(tokenizer, prompt, None) if plain else encode_prompt(tokenizer, None, messages)
        found = explain(model_, opened.sae, opened.info.hook, ids, target=aims[0], against=aims[1], tried=max(20, top))
        table = Table("feature", "label", "attribution", "lost without it", "activation", "mostly on")
        for c in found.causes[:top]:
            feature = opened.features[c.row]
            lost = "" if c.ablation is None else f"{c.ablation:+.3f}"
            on = repr(str(tokenizer.decode([ids[c.peak]])))
            table.add_row(feature.id, feature.label[:48], f"{c.attribution:+.3f}", lost, f"{c.activation:.1f}", on)
        print_table(console, table)
        beside = "" if found.against is None else f" rather than {str(tokenizer.decode([found.against]))!r}"
        console.print(
            f"next is {str(tokenizer.decode([found.target]))!r}{beside}: {found.value:.2f} nats, probability "
            f"{found.probability:.1%}; {len(found.causes)} features fire",
            markup=False,
        )

    or_exit(work)


def diff(
    model_a: Annotated[str, typer.Argument(help="Folder or hub id of a checkpoint.")],
    model_b: Annotated[str, typer.Argument(help="Another checkpoint of the same model, such as a fine-tuned one.")],
    text: Annotated[Path, typer.Option(help="Text for both: lines, or JSONL with `text` or `messages`.")],
    top: Top = 20,
    bundle: Bundle_ = None,
) -> None:
    """Compare two checkpoints by how often features fire on the same text.

    Example: tiller diff sae_weights/harbor/model ./tuned --text chats.jsonl
    """

    def work() -> None:
        opened, rates = _open_bundle(bundle), []
        for place in (model_a, model_b):
            rates.append(_firing_rates(opened, place, text))
        found = diff_models(*rates)
        table = Table("feature", "label", "fires in A", "in B", "documents up, down", "q")
        for f in found.discoveries[:top]:
            feature = opened.features[f.row]
            row = (f"{f.a:.2%}", f"{f.b:.2%}", f"{f.up}, {f.down}", f"{f.q:.1g}")
            table.add_row(feature.id, feature.label[:48], *row)
        print_table(console, table)
        console.print(
            f"{len(found.discoveries)} of {len(found.features)} features have changed over {found.documents} documents, at a "
            f"false-discovery rate of 5 %; the SAE explains {found.explained[0]:.1%} of A's stream and "
            f"{found.explained[1]:.1%} of B's"
        )

    or_exit(work)


def _firing_rates(opened: Bundle, place: str, text: Path) -> FiringRates:
    _, tokenizer = load_model(opened.model_path, "cpu")
    documents = list(tokenize_texts(tokenizer, read_texts(text), longest=LONGEST))
    model, _ = load_model(place, "cpu")
    check_fits(model, opened.sae, opened.info.hook, place)
    return firing_rates(model, opened.sae, opened.info.hook, documents)


def _record_firings(
    opened: Bundle, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, path: Path
) -> FiringCounts:
    parts, some = [], []
    for text in read_texts(path):
        passage = (text_passage(tokenizer, text) if isinstance(text, str) else chat_passage(tokenizer, text)).until(
            LONGEST
        )
        some.append((passage, read_stream(model, torch.tensor([passage.ids]), opened.info.hook)[0]))
        if len(some) == AT_ONCE:
            parts.append(count_firings(opened.sae, some))
            some = []
    return FiringCounts.concatenate([*parts, *([count_firings(opened.sae, some)] if some else [])])


def _print_separating(title: str, features: Sequence[Separating], opened: Bundle) -> Table:
    table = Table("feature", "label", "in A", "in B", "log-odds", "effect", "q", "", title=title)
    for f in features:
        feature = opened.features[f.row]
        figures = (f"{f.a:.0%}", f"{f.b:.0%}", f"{f.log_odds:+.2f}", f"{f.effect:+.2f}", f"{f.q:.1g}")
        table.add_row(feature.id, feature.label[:48], *figures, "✓" if f.discovery else "")
    return table


def _open_bundle(bundle: Path | None) -> Bundle:
    return Bundle.open(settings_from_options(bundle=bundle).bundle)


def _load(bundle: Path | None, model: str | None) -> tuple[Bundle, PreTrainedModel, PreTrainedTokenizerFast]:
    opened = _open_bundle(bundle)
    found, tokenizer = load_model(model or opened.model_path, "cpu")
    return opened, found, tokenizer
