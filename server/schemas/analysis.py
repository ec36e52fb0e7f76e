"""What a text evokes, and where a token comes from. Schemas alone."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from server.schemas.generation import MessageInput
from server.schemas.steering import Finite
from steering.interpret.contrast import By


class PartOfText(BaseModel):
    """What one speaker says."""

    speaker: str | None
    text: str


class Firing(BaseModel):
    """A feature on a token."""

    feature: str
    activation: float


class TokenAnalysed(BaseModel):
    """A token, and what fires on it."""

    id: int
    text: str
    part: int
    start: int
    end: int
    top: list[Firing]
    error: float


class FeatureEvoked(BaseModel):
    """A feature along a text."""

    id: str
    label: str
    max: float
    mean: float
    count: int
    score: float
    activations: list[float]
    along: list[float]


class Anomaly(BaseModel):
    """How unusual a text is to the SAE."""

    experimental: bool
    error: float
    percentile: float | None


class Difference(BaseModel):
    """A feature in two texts."""

    row: int
    id: str
    label: str
    here: float
    there: float
    log_odds: float
    sure: float


class Analysis(BaseModel):
    """What a text evokes."""

    object: Literal["analysis"]
    model: str
    revision: str
    truncated: bool
    parts: list[PartOfText]
    tokens: list[TokenAnalysed]
    features: list[FeatureEvoked]
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
    """A feature that a token comes from."""

    id: str
    label: str
    attribution: float
    ablation: float | None
    activation: float
    at: int
    token: str


class Attribution(BaseModel):
    """Why a token comes next."""

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
"""Of each side."""


Sample = Annotated[str, Field(min_length=1)] | Annotated[list[MessageInput], Field(min_length=1, max_length=2000)]
"""A text, or a chat's messages."""


class TextInput(BaseModel):
    """A text, or a chat."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(default=None, min_length=1)
    messages: list[MessageInput] | None = Field(default=None, min_length=1, max_length=2000)
    plain: bool = False
    """Take a text as it is, also if it looks like a transcript (`speaker: line`)."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "TextInput":
        if (self.text is None) == (self.messages is None):
            raise ValueError("give text or messages, one of them")
        return self


class AnalyzeRequest(TextInput):
    """POST /v1/analyze."""

    model: str | None = None
    other: TextInput | None = None
    """A second text to hold against the first."""
    top_k: int = Field(default=8, ge=1, le=64)
    """How many features of each token."""
    limit: int = Field(default=24, ge=1, le=256)
    """How many of the whole."""
    features: list[str] | None = Field(default=None, max_length=256)
    """Look at these instead of at what matters most."""
    threshold: Finite = Field(default=0.0, ge=0)


class AttributeRequest(TextInput):
    """POST /v1/attribute: a text, or a chat up to where the assistant speaks or has begun to."""

    model: str | None = None
    target: str | None = Field(default=None, min_length=1, max_length=200)
    """The token that is explained; what the model itself would say next if not given."""
    against: str | None = Field(default=None, min_length=1, max_length=200)
    """Another token: why the one and not the other."""
    top_k: int = Field(default=10, ge=1, le=64)


class ContrastRequest(BaseModel):
    """POST /v1/features/contrast."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    a: list[Sample] = Field(min_length=1, max_length=DOCUMENTS)
    b: list[Sample] = Field(min_length=1, max_length=DOCUMENTS)
    top_k: int = Field(default=20, ge=1, le=256)
    """How many features of each direction."""
    by: By = "any"
    """Whether a feature fires in a document at all, or how strongly on average."""
