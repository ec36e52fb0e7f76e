"""Neuronpedia exports of a source: read into catalogue features, and written from them.

`features/`, `explanations/` and `activations/` hold `batch-<n>.jsonl.gz`, one row per line, with the feature's index as
a string. Each of the three may be missing.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from steering.catalogue.feature import Feature
from steering.errors import BadBundle
from steering.files import write_atomic

BATCH, EXAMPLES = 1024, 20
OWN = ("hand", "fit")
"""Label sources set here, which an import never overwrites."""
Row = dict[str, Any]
GLYPHS = {"Ġ": " ", "▁": " ", "Ċ": "\n", "<0x0A>": "\n"}


def read_export(
    folder: Path, features: Sequence[Feature], unit: Sequence[float], *, source: str | None = None
) -> list[Feature]:
    """Return the features with the labels, statistics and examples of an export.

    `unit[i]` is the length in our stream of one of its activations of feature i (`Imported.unit`). `source` is the
    SAE's name there, such as `20-gemmascope-res-16k`; without it, the folder's name, or that of its first row. Rows of
    other sources are left out. Raises BadBundle that names the file and the line.
    """
    if not any((folder / kind).is_dir() for kind in ("features", "explanations", "activations")):
        raise BadBundle(
            f"{str(folder)!r} is no export of Neuronpedia: it lacks features/, explanations/ or activations/"
        )
    found = {f.index: f for f in features}
    source = source or _source_in(folder)
    for kind, merge in (("features", _statistics), ("explanations", _label), ("activations", _example)):
        for index, row, place in _rows(folder / kind):
            if row.get("layer") not in (None, source):
                continue
            if index not in found:
                raise BadBundle(f"{place} describes feature {index}; the SAE has {len(features)}")
            try:
                found[index] = merge(found[index], row, unit[index])
            except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
                raise BadBundle(f"{place} is not a row of {kind}: {error!r}") from error
    return [_strongest(found[f.index]) for f in features]


def write_export(folder: Path, features: Iterable[Feature], *, model: str, source: str, unit: float = 1.0) -> None:
    """Write the rows of all features that are described, 1,024 indices per batch.

    `unit` is the length in our stream of an activation of 1 in the export.
    """
    name = {"modelId": model, "layer": source}
    described = [_in_units(f, unit) for f in features if f.label or f.density or f.max_activation]
    for kind, rows in (("features", _features), ("explanations", _explanations), ("activations", _activations)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for batch in sorted({f.index // BATCH for f in described}):
            lines = [
                json.dumps({**name, "index": str(f.index), **row}, ensure_ascii=False) + "\n"
                for f in described
                if f.index // BATCH == batch
                for row in rows(f)
            ]
            path = folder / kind / f"batch-{batch}.jsonl.gz"
            write_atomic(path, gzip.compress("".join(lines).encode(), mtime=0))


def _rows(folder: Path) -> Iterator[tuple[int, Row, str]]:
    paths = sorted(folder.glob("batch-*.jsonl*"), key=lambda p: int((re.findall(r"\d+", p.name) or ["0"])[0]))
    for path in paths:
        opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rt", encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    place = f"line {number} of {path.parent.name}/{path.name}"
                    if line.strip():
                        yield *_parsed(line, place), place
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise BadBundle(f"{path.parent.name}/{path.name} is damaged or cut short: {error}") from error


def _source_in(folder: Path) -> str | None:
    """Return the folder's name if a row has it as its source, else the source of the first row."""
    kinds = ("features", "explanations", "activations")
    sources = [row["layer"] for kind in kinds for _, row, _ in _rows(folder / kind) if row.get("layer") is not None]
    return folder.name if folder.name in sources else next(iter(sources), None)


def _parsed(line: str, place: str) -> tuple[int, Row]:
    try:
        row = json.loads(line)
        return int(row["index"]), row
    except (ArithmeticError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadBundle(f"{place} is not an object with an index: {error!r}") from error


def _statistics(feature: Feature, row: Row, unit: float) -> Feature:
    largest = float(row["maxActApprox"] or 0) * unit
    signs = {"positive": row.get("pos_str") or [], "negative": row.get("neg_str") or []}
    return feature.model_copy(
        update={
            "density": float(row.get("frac_nonzero") or 0),
            "max_activation": largest,
            "typical_max": feature.typical_max or largest,
            "top_logits": {sign: [_plain_row([t])[0] for t in tokens] for sign, tokens in signs.items() if tokens},
        }
    )


def _label(feature: Feature, row: Row, _unit: float) -> Feature:
    """Use a feature's first explanation only: a file lists them in the order in which they were made."""
    words = row["description"]
    if words is not None and not isinstance(words, str):
        raise TypeError(f"description {words!r} is no string")
    words = (words or "").strip()
    if not words or feature.label_source in OWN or feature.label_source.startswith("neuronpedia"):
        return feature
    by = row.get("explanationModelName") or row.get("typeName")
    return feature.model_copy(update={"label": words, "label_source": f"neuronpedia:{by}" if by else "neuronpedia"})


def _example(feature: Feature, row: Row, unit: float) -> Feature:
    tokens, values = _plain_row(row["tokens"]), [float(v) * unit for v in row["values"]]
    if not tokens and not values:
        return feature
    if len(tokens) != len(values):
        raise ValueError(f"{len(tokens)} tokens and {len(values)} values")
    at = max(range(len(values)), key=values.__getitem__)
    example = {"text": "".join(tokens), "token": tokens[at], "at": at, "activation": values[at]}
    example |= {"tokens": tokens, "activations": values}
    return feature.model_copy(update={"examples": [*feature.examples, example]})


def _in_units(feature: Feature, unit: float) -> Feature:
    if unit == 1:
        return feature
    examples = [
        e
        | {"activation": e["activation"] / unit}
        | {k: [v / unit for v in e[k]] for k in ("values", "activations") if k in e}
        for e in feature.examples
    ]
    return feature.model_copy(update={"max_activation": feature.max_activation / unit, "examples": examples})


def _strongest(feature: Feature) -> Feature:
    ranked = sorted(feature.examples, key=lambda e: -e["activation"])
    return feature.model_copy(update={"examples": ranked[:EXAMPLES]})


def _plain_row(tokens: Sequence[str]) -> list[str]:
    """Return the texts of a row's tokens; those of byte-level tokenizers stand for bytes, a character may have several.

    A row is byte-level if its tokens are bytes of valid UTF-8 that spell something else than they show. A character
    that is split between tokens belongs to the last of them.
    """
    joined = "".join(tokens)
    try:
        data = bytes(BYTES[c] for c in joined)
        if data.decode() == joined:
            return list(tokens)
    except (KeyError, UnicodeDecodeError):
        return [_plain(t) for t in tokens]
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(bytes(BYTES[c] for c in token)) for token in tokens]


def _byte_characters() -> dict[str, int]:
    """Return the byte that each character of a byte-level tokenizer (GPT-2's and its heirs') stands for."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in shown]
    characters = {chr(b): b for b in shown} | {chr(0x100 + n): b for n, b in enumerate(hidden)}
    return characters | {c: ord(c) for c in " \n\t\r"}  # exports have some of them decoded already


BYTES = _byte_characters()


def _plain(token: str) -> str:
    for glyph, text in GLYPHS.items():
        token = token.replace(glyph, text)
    return token


def _features(feature: Feature) -> list[Row]:
    return [
        {
            "maxActApprox": feature.max_activation,
            "frac_nonzero": feature.density,
            "pos_str": feature.top_logits.get("positive", []),
            "pos_values": [],
            "neg_str": feature.top_logits.get("negative", []),
            "neg_values": [],
        }
    ]


def _explanations(feature: Feature) -> list[Row]:
    if not feature.label:
        return []
    _, _, by = feature.label_source.partition("neuronpedia:")
    return [{"description": feature.label, "explanationModelName": by or feature.label_source, "typeName": None}]


def _activations(feature: Feature) -> list[Row]:
    return [_activation(e) for e in feature.examples]


def _activation(example: Row) -> Row:
    """Return one row of `activations/`; if only the strongest token of a text is known, the text is split around it."""
    if "tokens" in example:
        tokens = example["tokens"]
        values = example["activations"] if "activations" in example else example["values"]  # earlier key of the same
    else:
        before, token, after = str(example["text"]).partition(str(example["token"]))
        tokens, values = [before, token, after], [0.0, example["activation"], 0.0]
    at = max(range(len(values)), key=values.__getitem__)
    return {
        "tokens": tokens,
        "values": values,
        "maxValue": values[at],
        "maxValueTokenIndex": at,
        "minValue": min(values),
    }
