"""`tiller analyze`: feature activations of a file's text."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from server.cli.errors import exit_with_error
from server.cli.options import settings_from_options
from server.cli.tables import print_table
from server.cli.terminal import TerminalConsole, escape_controls
from server.errors import ApiError
from server.features.analysis_json import analysis_answer, compared_features
from server.features.read_text import MAX_TOKENS, encode_input, join_chunks, split_context
from server.sae.model_loading import load_model, resolve_device
from server.schemas.analysis import TextInput
from server.settings import Settings
from steering.catalogue.bundle import Bundle
from steering.errors import SteeringError
from steering.interpret.analysis import analyse
from steering.model.hooks import read_stream
from steering.model.passage import Passage, concatenate

console, problems = TerminalConsole(), TerminalConsole(stderr=True)
BARS = " ▁▂▃▄▅▆▇█"
OF_SPEAKER = 6


def analyze(
    file: Annotated[Path, typer.Argument(help="Text, JSONL of messages or chats, or a transcript (`speaker: line`).")],
    other: Annotated[Path | None, typer.Option(help="A second file to compare with the first.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Read it as raw text, even if it is a transcript.")] = False,
    top: Annotated[int, typer.Option(min=1, max=256, help="Number of features.")] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as POST /v1/analyze returns it.")] = False,
    bundle: Annotated[Path | None, typer.Option(envvar="TILLER_BUNDLE", help="Folder with bundle.json.")] = None,
    model: Annotated[str | None, typer.Option(envvar="TILLER_MODEL", help="Replaces the bundle's model.")] = None,
    device: Annotated[str | None, typer.Option(envvar="TILLER_DEVICE", help="auto, cpu, cuda or mps.")] = None,
) -> None:
    """Print the features that a text activates: in all, by speaker and along the text.

    Example: tiller analyze chat.jsonl --top 8
    Example: tiller analyze monday.txt --other friday.txt --json
    """
    options = {"bundle": bundle, "model": model, "device": device}
    settings = settings_from_options(**options)
    try:
        result = _analyze(settings, _texts(file, plain), _texts(other, plain) if other else None, top)
    except ApiError as error:
        exit_with_error(error.message)
    except (SteeringError, OSError) as error:
        exit_with_error(str(error))
    if as_json:
        typer.echo(escape_controls(json.dumps(result, ensure_ascii=False)))
    else:
        _print(result, file, other)


def _texts(file: Path, plain: bool) -> list[TextInput]:
    """The texts of a file: one text, or each text or chat of a JSONL file. Raises SteeringError
    that names the problem."""
    if not file.is_file():
        raise SteeringError(f"there is no file {str(file)!r}")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SteeringError(f"{str(file)!r} is not UTF-8 text: byte {error.start} cannot be decoded") from error
    if "\0" in text:
        raise SteeringError(f"{str(file)!r} is not text: it contains zero bytes")
    if not text.strip():
        raise SteeringError(f"{str(file)!r} contains no text")
    return _parse_chats(file, text) if file.suffix == ".jsonl" and not plain else [TextInput(text=text, plain=plain)]


def _parse_chats(file: Path, text: str) -> list[TextInput]:
    """The chats of a JSONL file; consecutive lines that are messages form one chat."""
    found, chat = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "role" in row:
                chat.append({"role": row["role"], "content": row["content"]})
            else:
                found.append(TextInput(**{k: row[k] for k in ("text", "messages") if k in row}))
        except (ValueError, TypeError, KeyError) as error:
            kind = "a message with `role` and `content`, or an object with `text` or `messages`"
            raise SteeringError(f"line {number} of {file.name} must be {kind}") from error
    return [*found, TextInput(messages=chat)] if chat else found


def _analyze(settings: Settings, texts: list[TextInput], other: list[TextInput] | None, top: int) -> dict[str, Any]:
    opened = Bundle.open(settings.bundle)
    opened.sae.check_reads()
    where = resolve_device(settings.device)
    model, tokenizer = load_model(settings.model or opened.model_path, where)
    opened.check_fits(int(model.config.get_text_config().hidden_size))
    opened = opened.to(where)
    with problems.status("reading"):
        passage, stream, cut = _read(model, tokenizer, opened, texts)
        found = analyse(opened, passage, stream, features=top)
        answer = analysis_answer(opened, found, truncated=cut)
        if other:
            there, stream_there, _ = _read(model, tokenizer, opened, other)
            answer.compared = compared_features(opened, (passage, stream), (there, stream_there), features=top)
    return answer.model_dump(exclude_unset=True)


def _read(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, bundle: Bundle, texts: list[TextInput]
) -> tuple[Passage, Tensor, bool]:
    """All texts, each read separately, up to the API's token limit; whether any was cut."""
    longest = int(model.config.get_text_config().max_position_embeddings)
    passages, streams, room = [], [], MAX_TOKENS
    for asked in texts:
        encoded = encode_input(tokenizer, asked)
        if not room:
            return concatenate(passages), torch.cat(streams), True
        passage = encoded.until(room)
        room -= len(passage.ids)
        head, stretches = split_context(tokenizer, passage, longest)
        with torch.no_grad():
            parts = [read_stream(model, torch.tensor([s], device=model.device), bundle.info.hook)[0] for s in stretches]
        passages.append(passage)
        streams.append(join_chunks(parts, head))
        if len(passage.ids) < len(encoded.ids):
            return concatenate(passages), torch.cat(streams), True
    return concatenate(passages), torch.cat(streams), False


def _print(result: dict[str, Any], file: Path, other: Path | None) -> None:
    label = {f["id"]: f["label"] for f in result["features"]}
    speakers = [s for s in result["speakers"] if s]
    who = f", {', '.join(speakers)}" if speakers else ""
    cut = "; the rest was left out" if result["truncated"] else ""
    console.print(f"{file.name}: {len(result['tokens'])} tokens{who}{cut}", highlight=False)
    table = Table("feature", "label", "max", "mean", "tokens", "along the text")
    for f in result["features"]:
        figures = (f"{f['max']:.2f}", f"{f['mean']:.3f}", str(f["count"]), _bar(f["along"]))
        table.add_row(f["id"], f["label"][:48], *figures)
    print_table(console, table)
    if len(speakers) > 1:
        console.print(_speakers(result, label))
    if result["axes"]:
        console.print(_axes(result["axes"]))
    percentile = result["anomaly"]["percentile"]
    place = "" if percentile is None else f", more than of {percentile:.0f} % of the bundle's own chats (experimental)"
    console.print(f"unexplained by the SAE: {result['error']:.2f}{place}", highlight=False)
    if other:
        console.print(_print_comparison(result["compared"], file.name, other.name))


def _speakers(result: dict[str, Any], label: dict[str, str]) -> Table:
    table = Table("speaker", "feature", "label", "mean")
    for who, means in result["speakers"].items():
        best = sorted(((v, f) for f, v in means.items() if v > 0), reverse=True)[:OF_SPEAKER]
        for i, (v, f) in enumerate(best):
            table.add_row(who if i == 0 else "", f, label[f][:48], f"{v:.3f}")
    return table


def _axes(axes: list[dict[str, Any]]) -> Table:
    table = Table("mood", "score", "evidence", "AUROC", "bag of words")
    for a in axes:
        score = "not sure enough" if a["score"] is None else f"{a['score']:.2f} {_bar([a['score']], of=1.0)}"
        table.add_row(
            a["high"], score, ", ".join(a["evidence"][:3]), f"{a['auroc']['value']:.2f}", f"{a['bag_of_words']:.2f}"
        )
    return table


def _print_comparison(compared: list[dict[str, Any]], here: str, there: str) -> Table:
    table = Table("feature", "label", here, there, "log odds", "sure")
    for d in compared:
        figures = (f"{d['here']:.1%}", f"{d['there']:.1%}", f"{d['log_odds']:+.2f}", f"{d['sure']:.1f}")
        table.add_row(d["id"], d["label"][:40], *figures)
    return table


def _bar(values: list[float], of: float | None = None) -> str:
    most = of or max([*values, 1e-9])
    return "".join(BARS[round((len(BARS) - 1) * max(0.0, min(1.0, v / most)))] for v in values)
