"""Feature search: by words, by meaning, by activation on prompts, by id.

Words use SQLite's full-text index, built in memory per catalogue. Meaning compares the query with the labels: by a
sentence model, if one is configured, else by the model's own input embeddings.
"""

import re
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from server.executors import SEARCH, run_in
from server.schemas.features import FeatureQuery, Filters
from steering.catalogue.feature import Feature, number_of
from steering.catalogue.resolve import Catalogue
from steering.errors import SteeringError
from steering.evaluate.words import UNSPACED
from steering.interpret.label_embeddings import Encode, LabelEmbeddings
from steering.interpret.prompt_features import features_in_common, features_of_prompt
from steering.model.passage import Passage

WEIGHTS = {"label": 10.0, "words": 4.0, "says": 3.0, "examples": 1.0, "id": 6.0, "note": 4.0}
"""Weight of each column for bm25."""
READY_FACTOR = 1.5
"""Factor on the score of slider-ready features in full-text search: of two with the words in their labels, they come first."""
READY = 0.05
"""Added to the similarity of features whose slider is known to work: of two that fit, the one that steers comes first."""
LEAST = 0.2
"""Least similarity of a hit by meaning."""
ReadText = Callable[[str, bool], Awaitable[tuple["Passage", "Tensor"]]]
"""Records the unsteered stream of a text, as raw text or as a user message."""
ReadEmbeddings = Callable[[], tuple[Tensor, Encode]]
"""Reads the language model's input embeddings, and how its tokenizer encodes a word."""
Compare = Callable[[str, Sequence[str] | None], Sequence[float] | Tensor]
"""Similarity of words to each of some texts; to each feature's label without texts."""
Hits = list[tuple[Feature, float | None]]
PUNCTUATION = ".,;:!?…'\"“”‘’«»()[]{}<>"
"""What surrounds words in a sentence: it is no part of a search term."""
WORD = re.compile(r"\w+(?:[-'’./]\w+)*")
"""A word, a compound, or a feature's id: the full-text index has its parts."""
MAX_TERMS = 32
"""Maximum number of different terms of a query: the time of a search grows with their square."""
MAX_QUERY = 1000
"""Maximum number of characters of a query that is not a prompt."""
DEADLINE = 2.0
"""Seconds after which a search by words is given up."""
STEPS = 1000
"""SQLite's instructions between two looks at the clock."""


class Terms(NamedTuple):
    """A query's terms: words for the full-text index, and what is looked for as it stands."""

    words: list[str]
    literals: list[str]


def parse_terms(query: str) -> Terms:
    """Split a query at its spaces and sort its terms, each once. Raises SteeringError if there are too many."""
    words, literals = dict[str, None](), dict[str, None]()
    for part in normalize_text(query).split():
        term = part.strip(PUNCTUATION) or part
        if WORD.fullmatch(term) and not re.search(f"[{UNSPACED}]", term):
            words.update(dict.fromkeys(re.findall(r"\w+", term)))
        else:
            literals[term] = None
    if (n := len(words) + len(literals)) > MAX_TERMS:
        raise SteeringError(f"q: at most {MAX_TERMS} different words, got {n}", param="q")
    return Terms([*words], [*literals])


def normalize_text(text: str) -> str:
    """Text in which letters compare equal whatever their case, width or composition, and emoji whatever their style."""
    return unicodedata.normalize("NFKC", text).casefold().replace("\ufe0f", "")


class Index:
    """Full-text index of one catalogue."""

    def __init__(
        self, catalogue: Catalogue, meaning_model: str | None = None, embeddings: ReadEmbeddings | None = None
    ) -> None:
        """Index a catalogue. Search by meaning takes a sentence model, else the language model's input embeddings."""
        self.catalogue, self.features, self._meaning_model = catalogue, list(catalogue), meaning_model
        self._read_embeddings = embeddings
        self._lock, self._reading = threading.Lock(), threading.Lock()
        """For what is built on first use, and for the full-text index, which answers one query at a time."""
        self._words: sqlite3.Connection | None = None
        self._texts: list[dict[str, str]] | None = None
        self._meaning: Compare | None = None

    def by_words(self, words: str) -> Hits:
        """Features that match all the words, or prefixes of them; all features without words. Raises SteeringError for too
        many words, or if it takes too long.

        What is no word between spaces is looked for as it stands, letter by letter: words of scripts that are written
        without spaces, emoji, and names such as `C++`.
        """
        terms = parse_terms(words)
        if not terms.words and not terms.literals:
            return [(f, None) for f in sorted(self.features, key=_default_order)]
        end = time.monotonic() + DEADLINE
        scores = self._full_text(terms.words, end) if terms.words else dict.fromkeys(range(len(self.features)), 0.0)
        for term in terms.literals:
            scores = self._literal(term, scores, end)
        return [
            (f, s * (READY_FACTOR if has_effect(f) else 1.0)) for i, s in scores.items() for f in (self.features[i],)
        ]

    def by_id(self, name: str) -> Hits:
        """The feature of an id or a number; empty if there is none."""
        wanted = name.strip()
        number = number_of(wanted if "/" in wanted else f"/{wanted}")
        return [(f, 1.0) for f in self.features if f.index == number and wanted in (f.id, str(f.index))]

    def by_meaning(self, words: str) -> Hits:
        """Features by the similarity of their labels. Raises SteeringError if neither model can be used."""
        scores = zip(self.features, self._compare(words, None), strict=True)
        ranked = [(f, float(score) + READY * has_effect(f)) for f, score in scores if "dead" not in f.kind]
        return [(f, score) for f, score in ranked if score >= LEAST]

    def similarities(self, words: str, texts: Sequence[str]) -> list[float]:
        """Similarity of words to each text, as search by meaning computes it for labels. Raises SteeringError if neither
        model can be used.
        """
        return [float(score) for score in self._compare(words, texts)]

    def _full_text(self, words: Sequence[str], end: float) -> dict[int, float]:
        """Score by row of the features that have all the words, or longer ones that begin with them."""
        sql = f"SELECT rowid, -bm25(features, {', '.join(map(str, WEIGHTS.values()))}) FROM features WHERE features MATCH ?"
        with self._lock:
            self._words = self._words or _build_full_text_index(self.features)
        if not self._reading.acquire(timeout=max(0.0, end - time.monotonic())):
            raise _too_slow()
        try:
            self._words.set_progress_handler(lambda: time.monotonic() > end, STEPS)
            return dict(self._words.execute(sql, (" ".join(f'"{t}"*' for t in words),)).fetchall())
        except sqlite3.OperationalError as error:  # SQLite's "interrupted"
            raise _too_slow() from error
        finally:
            self._reading.release()

    def _literal(self, term: str, scores: Mapping[int, float], end: float) -> dict[int, float]:
        """Score of the rows that have the term somewhere: what they had, and the weights of the columns with it."""
        with self._lock:
            self._texts = self._texts or [
                {column: normalize_text(text) for column, text in _indexed_fields(f).items()} for f in self.features
            ]
        found = dict[int, float]()
        for row, score in scores.items():
            if time.monotonic() > end:
                raise _too_slow()
            if more := sum(WEIGHTS[c] for c, text in self._texts[row].items() if term in text):
                found[row] = score + more
        return found

    def _compare(self, words: str, texts: Sequence[str] | None) -> Sequence[float] | Tensor:
        with self._lock:
            self._meaning = self._meaning or self._load_meaning()
        return self._meaning(words, texts)

    def _load_meaning(self) -> "Compare":
        if self._meaning_model:
            return _sentence_embeddings(self._meaning_model, self.features)
        if self._read_embeddings is None:
            raise SteeringError("search by meaning needs a model; search by mode 'text'", param="mode")
        weights, encode = self._read_embeddings()
        own = LabelEmbeddings(weights, encode, [f.label for f in self.features])
        return lambda words, texts: (own if texts is None else own.for_labels(texts)).similarities(words)


async def search_features(index: Index, query: FeatureQuery, read: ReadText) -> Hits:
    """All features that match a query, in its order. Raises SteeringError for an empty query, or one that is too long."""
    if query.mode in ("meaning", "prompt") and not query.q.strip():
        raise SteeringError(f"q is required in mode {query.mode!r}", param="q")
    if query.mode != "prompt" and len(query.q) > MAX_QUERY:
        said = f"q: must have at most {MAX_QUERY} characters in mode {query.mode!r}, got {len(query.q)}"
        raise SteeringError(said, param="q")
    if query.mode == "common" and not query.prompts:
        raise SteeringError("prompts is required in mode 'common'", param="prompts")
    match query.mode:
        case "text":
            hits = await run_in(SEARCH, index.by_words, query.q)
        case "id":
            hits = await run_in(SEARCH, index.by_id, query.q)
        case "meaning":
            hits = await run_in(SEARCH, index.by_meaning, query.q)
        case "prompt":
            hits = await _by_prompt(index, [query.q], [], read)
        case "common":
            hits = await _by_prompt(index, query.prompts, query.without, read)
    return await run_in(SEARCH, _filtered, hits, query)


async def _by_prompt(index: Index, these: Sequence[str], without: Sequence[str], read: ReadText) -> Hits:
    bundle = next(iter(index.catalogue.bundles.values()))
    bundle.sae.check_reads()

    async def counts(texts: Sequence[str]) -> list[Tensor]:
        found = []
        for text in texts:
            passage, stream = await read(text, True)
            found.append(await run_in(SEARCH, features_of_prompt, bundle, passage, stream))
        return found

    scores = features_in_common(await counts(these), await counts(without)).tolist()
    return [(bundle.features[row], s) for row, s in enumerate(scores) if s > 0]


def _filtered(hits: Hits, query: FeatureQuery) -> Hits:
    return _sort_hits([hit for hit in hits if _matches_filters(hit[0], query)], query.sort)


def _matches_filters(f: Feature, asked: Filters) -> bool:
    return (
        (asked.min_density is None or f.density >= asked.min_density)
        and (asked.max_density is None or f.density <= asked.max_density)
        and (asked.labelled is None or bool(f.label) == asked.labelled)
        and (asked.calibrated is None or (f.dose is not None) == asked.calibrated)
        and (asked.works is None or has_effect(f) == asked.works)
        and (asked.starred is None or bool(f.edited and f.edited.starred) == asked.starred)
        and (asked.kind is None or (asked.kind in f.kind if asked.kind != "plain" else not f.kind))
    )


def _sort_hits(hits: Hits, by: str) -> Hits:
    match by:
        case "density":
            return sorted(hits, key=lambda h: -h[0].density)
        case "max":
            return sorted(hits, key=lambda h: -h[0].max_activation)
        case "label":
            return sorted(hits, key=lambda h: (not h[0].label, h[0].label.casefold()))
        case _:
            return sorted(hits, key=lambda h: (-(h[1] or 0.0), _default_order(h[0])))


def _too_slow() -> SteeringError:
    return SteeringError(f"q: the search took longer than {DEADLINE:g} s; use fewer words, or longer ones", param="q")


def has_effect(f: Feature) -> bool:
    """Whether the feature is slider-ready: a dose of it does something that a random push of its size does not."""
    return bool(f.calibration and f.calibration.works)


def _default_order(f: Feature) -> tuple[bool, bool, float]:
    """Features labelled by users first, then those whose slider works, then by frequency."""
    return f.label_source not in ("hand", "fit"), not has_effect(f), -f.density


def _build_full_text_index(features: Iterable[Feature]) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.execute(f"CREATE VIRTUAL TABLE features USING fts5({', '.join(WEIGHTS)}, tokenize='porter unicode61')")
    marks = ", ".join("?" * (len(WEIGHTS) + 1))
    rows = ((i, *(_indexed_fields(f)[column] for column in WEIGHTS)) for i, f in enumerate(features))
    db.executemany(f"INSERT INTO features (rowid, {', '.join(WEIGHTS)}) VALUES ({marks})", rows)
    return db


def _indexed_fields(f: Feature) -> dict[str, str]:
    words = [*f.words, *(f.calibration.words if f.calibration else ())]
    seen = "\n".join(str(e.get("text", "")) for e in [*f.examples, *f.samples])
    return {
        "label": f.label,
        "words": " ".join(words),
        "says": " ".join(f.top_logits.get("positive", [])),
        "examples": seen,
        "id": f.id,
        "note": f.note,
    }


def _sentence_embeddings(model: str, features: Sequence[Feature]) -> Compare:
    """Cosines of a query to each text, or to each feature's label and words."""
    try:
        from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise SteeringError(
            "search by meaning needs a library that is not installed: pip install 'tiller[meaning]'", param="mode"
        ) from error
    try:
        reader = SentenceTransformer(model)
    except (OSError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise SteeringError(f"the sentence model {model!r} cannot be loaded: {message}", param="mode") from error
    encode: Callable[[Sequence[str]], Any] = lambda texts: reader.encode(  # noqa: E731
        texts, normalize_embeddings=True, show_progress_bar=False
    )
    known = encode([f"{f.label}. {' '.join(f.words)}" for f in features])
    return lambda query, texts: (known if texts is None else encode(texts)) @ encode([query])[0]
