"""Features, their map, and what tells texts apart. Schemas alone."""

from typing import Literal

from pydantic import BaseModel

from server.schemas.pages import Page
from steering.catalogue.bundle import Feature
from steering.catalogue.feature_edits import Edited
from steering.interpret.feature_map import Cluster


class FeatureInList(Feature):
    """A feature without its examples."""

    object: Literal["feature"]
    starred: bool
    score: float | None
    """How well it fits what was looked for."""
    edited: Edited | None = None


class FeatureList(Page):
    """A page of features."""

    data: list[FeatureInList]
    total: int


class Neighbour(BaseModel):
    """A feature whose direction is alike."""

    id: str
    label: str
    cosine: float


class FeatureInFull(Feature):
    """All that is known of a feature."""

    object: Literal["feature"]
    starred: bool
    layer: int
    similar: list[Neighbour]


class FeaturesMap(BaseModel):
    """Where each feature is, in the order of the SAE's rows."""

    object: Literal["features_map"]
    revision: str
    method: str
    index: list[int]
    points: list[list[float]]


class MapPoint(BaseModel):
    """What a point of the map is."""

    id: str
    label: str
    density: float
    max_activation: float
    kind: list[str]
    cluster: int


class FeaturesMapMeta(Page):
    """The clusters, and a page of points."""

    revision: str
    method: str
    clusters: list[Cluster]
    total: int
    data: list[MapPoint]


class Separating(BaseModel):
    """A feature that tells A from B."""

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
    """How many on either side."""

    a: int
    b: int


class Contrast(BaseModel):
    """What tells two sets of texts apart."""

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
