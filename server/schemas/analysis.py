"""Schemas of text analysis, attribution and contrast."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from server.schemas.generation import MessageInput
from server.schemas.steering import Finite
from steering.interpret.contrast import By


class PartOfText(BaseModel):
    """Text of one speaker."""

    speaker: str | None
    text: str


class Firing(BaseModel):
    """A feature's activation on a token."""

    feature: str
    activation: float


class TokenAnalysed(BaseModel):
    """A token, and the features active on it."""

    id: int
    text: str
    part: int
    start: int
    end: int
    top: list[Firing]
    error: float


class FeatureEvoked(BaseModel):
    """A feature's activations over a text."""

    id: str
    label: str
    max: float
    mean: float
    count: int
    score: float
    activations: list[float]
    along: list[float]


class Anomaly(BaseModel):
    """Anomaly score of a text under the SAE."""

    experimental: bool
    error: float
    percentile: float | None


class Difference(BaseModel):
    """One feature's activations in two texts."""

    row: int
    id: str
    label: str
    here: float
    there: float
    log_odds: float
    sure: float


class Analysis(BaseModel):
    """Feature activations of a text."""

    object: Literal["analysis"]
    model: str
    revision: str
    truncated: bool
    parts: list[PartOfText]
    tokens: list[TokenAnalysed]
    features: list[FeatureEvoked]
    labels: dict[str, str]
    """Label of each feature that is named for a token; features without a label are left out."""
    speakers: dict[str, dict[str, float]]
    error: float
    anomaly: Anomaly
    axes: list[dict[str, Any]]
    compared: list[Difference] = []


class TokenExplained(BaseModel):
    """A token of the vocabulary."""

    id: int
    text: str


class Cause(BaseModel):
    """A feature that contributes to a token."""

    id: str
    label: str
    attribution: float
    ablation: float | None
    activation: float
    at: int
    token: str


class Attribution(BaseModel):
    """Attribution of the next token to features."""

    object: Literal["attribution"]
    model: str
    revision: str
    target: TokenExplained
    against: TokenExplained | None
    value: float
    probability: float
    explained: float
    active: int
    features: list[Cause]


DOCUMENTS = 1000
"""Maximum number of documents per side."""


Sample = Annotated[str, Field(min_length=1)] | Annotated[list[MessageInput], Field(min_length=1, max_length=2000)]
"""A text, or the messages of a chat."""


class TextInput(BaseModel):
    """A text, or a chat."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(default=None, min_length=1)
    messages: list[MessageInput] | None = Field(default=None, min_length=1, max_length=2000)
    plain: bool = False
    """Read the text as raw text, even if it is formatted as a transcript (`speaker: line`)."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "TextInput":
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either text or messages")
        return self


class AnalyzeRequest(TextInput):
    """POST /v1/analyze."""

    model: str | None = None
    other: TextInput | None = None
    """A second text to compare with the first."""
    top_k: int = Field(default=8, ge=1, le=64)
    """Number of features per token."""
    limit: int = Field(default=24, ge=1, le=256)
    """Number of features over the whole text."""
    features: list[str] | None = Field(default=None, max_length=256)
    """Feature ids to report, instead of the most important ones."""
    threshold: Finite = Field(default=0.0, ge=0)


class AttributeRequest(TextInput):
    """POST /v1/attribute: a text, or a chat that ends before or within the assistant's reply."""

    model: str | None = None
    target: str | None = Field(default=None, min_length=1, max_length=200)
    """The token to explain; default: the model's most likely next token."""
    against: str | None = Field(default=None, min_length=1, max_length=200)
    """A second token to contrast with: why `target` and not this one."""
    top_k: int = Field(default=10, ge=1, le=64)


class ContrastRequest(BaseModel):
    """POST /v1/features/contrast."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    a: Annotated[list[Sample], FailFast()] = Field(min_length=1, max_length=DOCUMENTS)
    b: Annotated[list[Sample], FailFast()] = Field(min_length=1, max_length=DOCUMENTS)
    top_k: int = Field(default=20, ge=1, le=256)
    """Number of features per direction."""
    by: By = "any"
    """Compare by whether a feature is active anywhere in a document, or by its mean activation."""
