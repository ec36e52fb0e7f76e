"""What users keep: vectors, defaults, presets, shares. Schemas alone."""

from typing import Any, Literal

from pydantic import BaseModel

from server.schemas.features import Sides
from server.schemas.pages import Page
from steering.spec import Mode, Preset


class VectorMade(BaseModel):
    """A user's own direction."""

    object: Literal["vector"]
    id: str
    name: str
    method: str
    auroc: float | None
    texts: Sides
    dose: float
    measured: bool
    modes: list[Mode]
    created: int


class VectorList(Page):
    """A user's vectors."""

    data: list[VectorMade]


class Default(BaseModel):
    """What a user came to like of one slider."""

    subject: str
    default: float
    liked_most: float
    was: float
    low: float
    high: float
    votes: int


class VoteGiven(BaseModel):
    """What was said of one slider."""

    subject: str
    dose: float
    liked: float
    weight: float
    at: float


class Defaults(BaseModel):
    """A user's own defaults, and what they come from."""

    user: str | None
    defaults: list[Default]
    votes: list[VoteGiven]


class VotesDeleted(Defaults):
    """The same after votes were taken back."""

    deleted: int


class PresetList(Page):
    """All presets."""

    data: list[Preset]


class Deleted(BaseModel):
    """What is gone."""

    id: str
    object: str = ""
    deleted: Literal[True]


class PresetResult(BaseModel):
    """What became of a preset that was imported."""

    id: str
    result: Literal["created", "replaced", "unchanged"]


class PresetResults(Page):
    """What became of each preset."""

    data: list[PresetResult]


class Counts(BaseModel):
    """What became of those of one kind."""

    created: int
    replaced: int
    unchanged: int


class Imported(BaseModel):
    """What became of an import, by kind."""

    object: Literal["import"]
    user: str | None
    counts: dict[str, Counts]


class Share(BaseModel):
    """Something that was shared."""

    object: Literal["share"]
    id: str
    created: int
    expires: int
    model: str | None
    steering: dict[str, Any] | None
    seed: int | None
    messages: list[dict[str, Any]] | None
    title: str | None


class ShareMade(Share):
    """The same, with the key that deletes it, which is told once."""

    key: str
