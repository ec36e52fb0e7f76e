"""Schemas of features, their search and their map."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from server.schemas.pages import Page
from server.schemas.steering import Whole
from steering.catalogue.feature import Feature
from steering.catalogue.feature_edits import FeatureEdit
from steering.interpret.feature_map import Cluster

Mode = Literal["text", "meaning", "prompt", "common", "id"]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]
Share = Annotated[float | None, Field(default=None, ge=0, le=1, allow_inf_nan=False)]


class FeatureSummary(Feature):
    """A feature without its examples."""

    object: Literal["feature"]
    starred: bool
    score: float | None
    """Relevance to the query."""
    edited: FeatureEdit | None = None


class FeatureList(Page[FeatureSummary]):
    """A page of features."""

    total: int


class Neighbour(BaseModel):
    """A feature with a similar direction."""

    id: str
    label: str
    cosine: float


class FeatureDetail(Feature):
    """A feature with all its details."""

    object: Literal["feature"]
    starred: bool
    layer: int
    similar: list[Neighbour]


class FeaturesMap(BaseModel):
    """Map coordinates of each feature, in the order of the SAE's rows."""

    object: Literal["features_map"]
    revision: str
    method: str
    index: list[int]
    points: list[list[float]]


class MapPoint(BaseModel):
    """Metadata of a point of the map."""

    id: str
    label: str
    density: float
    max_activation: float
    kind: list[str]
    cluster: int


class FeaturesMapMeta(Page[MapPoint]):
    """The clusters of the map, and a page of points."""

    revision: str
    method: str
    clusters: list[Cluster]
    total: int


class Separating(BaseModel):
    """A feature that separates A from B."""

    id: str
    label: str
    a: float
    b: float
    mean_a: float
    mean_b: float
    log_odds: float
    effect: float
    p: float
    q: float
    discovery: bool


class Sides(BaseModel):
    """Number of documents on each side."""

    a: int
    b: int


class Contrast(BaseModel):
    """Features that separate two sets of texts."""

    object: Literal["contrast"]
    model: str
    revision: str
    by: str
    documents: Sides
    tokens: Sides
    tested: int
    discoveries: int
    a_over_b: list[Separating]
    b_over_a: list[Separating]


class Filters(BaseModel):
    """Filters, sort order and page size of a feature query."""

    model_config = ConfigDict(frozen=True)

    min_density: Share
    max_density: Share
    labelled: bool | None = None
    """Whether the feature has a label, by a user or by a labelling method."""
    calibrated: bool | None = None
    """Whether its dose is calibrated."""
    works: bool | None = None
    """Whether steering with it was measured to have an effect that a random direction does not have."""
    starred: bool | None = None
    kind: Literal["dead", "dense", "input-only", "plain"] | None = None
    """`plain` is none of the others."""
    sort: Literal["score", "density", "max", "label"] = "score"
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str = Field(default="0", pattern=r"^[0-9]{1,9}$")


class FeatureQuery(Filters):
    """A feature search query."""

    q: str = Field(default="", max_length=20_000)
    mode: Mode = "text"
    prompts: list[Text] = Field(default=[], max_length=32)
    """For `common`: texts in which the feature must be active."""
    without: list[Text] = Field(default=[], max_length=32)
    """For `common`: texts in which the feature must not be active."""


class SearchRequest(Filters):
    """POST /v1/features/search."""

    model_config = ConfigDict(extra="forbid")

    prompts: list[Text] = Field(min_length=1, max_length=32)
    without: list[Text] = Field(default=[], max_length=32)


class EditRequest(BaseModel):
    """PATCH /v1/features/{id}."""

    model_config = ConfigDict(extra="forbid")

    label: str | None = Field(default=None, max_length=200)
    note: str | None = Field(default=None, max_length=4000)
    starred: bool = False
    user: str | None = Field(default=None, min_length=1, max_length=256)
    """The user who makes the edit."""

    @field_validator("label")
    @classmethod
    def _one_line(cls, label: str | None) -> str | None:
        found = label and " ".join(label.split())
        if found == "":
            raise ValueError("a label may not be empty; null removes it")
        return found

    @model_validator(mode="after")
    def _something(self) -> "EditRequest":
        if not self.model_fields_set - {"user"}:
            raise ValueError("give label, note or starred")
        return self

    def changes(self) -> dict[str, Any]:
        """The fields to change."""
        return self.model_dump(include=self.model_fields_set - {"user"})


class CalibrateRequest(BaseModel):
    """POST /v1/features/{id}/calibrate; the body is optional."""

    model_config = ConfigDict(extra="forbid")

    prompts: Whole = Field(default=16, ge=4, le=32)
    """Number of the fixed prompts to use; fewer are faster and less precise."""
