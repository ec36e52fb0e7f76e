"""Text corpus: lines, JSONL or a dataset of the hub; prose as `str`, chats as messages."""

import json
import lzma
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from server.settings import Settings
from steering.errors import SteeringError
from steering.model.activations import tokenize_chats
from steering.model.chat_template import Message
from steering.model.token_store import TokenStore

SAMPLE = Path(__file__).parent / "sample.txt"
"""A few chats and some prose, the default."""


def read_texts(path: Path) -> Iterator[str | list[Message]]:
    """One text per line, xz or not; in JSONL an object with `text` or `messages`. Raises
    SteeringError that names the line."""
    some, jsonl = False, ".jsonl" in path.suffixes[-2:]
    with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            some = True
            try:
                read = line.decode().rstrip("\r\n")
                yield _parse_row(json.loads(read), ("text", "messages")) if jsonl else read
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                kind = "an object with `text` or `messages`" if jsonl else "text in UTF-8"
                raise SteeringError(f"line {number} of {path.name} must be {kind}: {error}") from error
    if not some:
        raise SteeringError(f"{str(path)!r} holds no text")


def read_dataset(name: str, *, split: str, column: str | None) -> Iterator[str | list[Message]]:
    """Stream a dataset's rows: `column`, or the first of `text`, `messages`, `conversation` that exists.

    Raises SteeringError if the dataset cannot be loaded, or has no such column.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise SteeringError(
            "datasets are read by a library that is not installed: pip install 'tiller[train]'"
        ) from error
    wanted = (column,) if column else ("text", "messages", "conversation")
    try:
        for row in load_dataset(name, split=split, streaming=True):
            yield _parse_row(row, wanted)
    except KeyError as error:
        raise SteeringError(
            f"the dataset {name!r} has no column {' or '.join(wanted)}; name one with --column"
        ) from error
    except (OSError, ValueError) as error:
        raise SteeringError(f"the dataset {name!r} cannot be read: {str(error).splitlines()[0]}") from error


def tokenize_texts(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str | list[Message]], *, longest: int
) -> Iterator[list[int]]:
    """Chats through the template, prose after the beginning-of-text token, cut into texts of at most `longest` tokens.

    Each rest after a cut begins with that token, too. Texts of fewer than three tokens are dropped.
    """
    bos = [tokenizer.bos_token_id] if isinstance(tokenizer.bos_token_id, int) else []
    for text in texts:
        if isinstance(text, str):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            pieces = ([*bos, *ids[i : i + longest - 1]] for i in range(0, len(ids), longest - 1))
        else:
            pieces = (ids[:longest] for ids in tokenize_chats(tokenizer, [text]))
        yield from (piece for piece in pieces if len(piece) > 2)


def corpus_token_ids(settings: Settings, tokenizer: PreTrainedTokenizerFast, *, longest: int = 512) -> list[list[int]]:
    """A server's corpus as token ids: the configured files, or the bundle's own; and texts kept by earlier updates."""
    shipped = settings.bundle / "corpus.jsonl.xz"
    files = list(settings.corpus) or [shipped if shipped.exists() else SAMPLE]
    rows = [ids for file in files for ids in tokenize_texts(tokenizer, read_texts(file), longest=longest)]
    kept = replay_corpus_path(settings)
    return [*rows, *TokenStore.open(kept)] if TokenStore.exists(kept) else rows


def replay_corpus_path(settings: Settings) -> Path:
    """File in which updates keep the tokens of earlier files."""
    return settings.data_dir / "trainer" / settings.bundle.name / "reservoir"


def read_all(
    paths: list[Path], dataset: str | None, *, split: str, column: str | None
) -> Iterator[str | list[Message]]:
    """Texts of the files in order, then of the dataset; the sample if neither is given."""
    named = [read_texts(path) for path in paths or ([] if dataset else [SAMPLE])]
    return chain(*named, read_dataset(dataset, split=split, column=column) if dataset else ())


def _parse_row(row: dict[str, Any], columns: tuple[str, ...]) -> str | list[Message]:
    value = next((row[c] for c in columns if c in row), None)
    if value is None:
        raise KeyError(" or ".join(columns))
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(m, dict) for m in value)):
        raise TypeError(f"a text must be a string or a list of messages, not {type(value).__name__}")
    return value
