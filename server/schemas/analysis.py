"""What a text evokes, and where a token comes from. Schemas alone."""

from typing import Any, Literal

from pydantic import BaseModel


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
