"""Schemas of user data: vectors, defaults, presets, shares, feedback."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from server.schemas.analysis import Sample
from server.schemas.features import Sides
from server.schemas.generation import MessageInput
from server.schemas.pages import Page
from server.schemas.steering import SteeringRequest, Whole
from steering.interpret.directions import Method
from steering.spec import Mode, Preset


class VectorInfo(BaseModel):
    """A user's own vector."""

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


class VectorList(Page[VectorInfo]):
    """A user's vectors."""


class Default(BaseModel):
    """A user's learned default for one slider."""

    subject: str
    default: float
    liked_most: float
    was: float
    low: float
    high: float
    votes: int


class VoteGiven(BaseModel):
    """A user's vote on one slider."""

    subject: str
    dose: float
    liked: float
    weight: float
    at: float


class Defaults(BaseModel):
    """A user's learned defaults, and the votes behind them."""

    user: str | None
    defaults: list[Default]
    votes: list[VoteGiven]


class VotesDeleted(Defaults):
    """The user's defaults after votes were deleted."""

    deleted: int


class PresetList(Page[Preset]):
    """All presets."""


class Deleted(BaseModel):
    """A resource was deleted."""

    id: str
    object: str = ""
    deleted: Literal[True]


class PresetResult(BaseModel):
    """Import result of one preset."""

    id: str
    result: Literal["created", "replaced", "unchanged"]


class PresetResults(Page[PresetResult]):
    """Import results of all presets."""


class Counts(BaseModel):
    """Import counts of one kind."""

    created: int
    replaced: int
    unchanged: int


class Imported(BaseModel):
    """Import result by kind."""

    object: Literal["import"]
    user: str | None
    counts: dict[str, Counts]


class Share(BaseModel):
    """A shared steering."""

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
    """A shared steering with the key that deletes it, which is shown only once."""

    key: str


PAIRS = 64


class Feedback(BaseModel):
    """Feedback on a reply."""

    model_config = ConfigDict(extra="forbid")

    user: str | None = Field(default=None, min_length=1, max_length=256)
    """The user who gives the feedback; default: the owner of the key."""
    kind: Literal["thumb", "ab", "move"]
    up: bool | None = None
    """For a thumb: up or down."""
    steering: SteeringRequest | None = None
    """For a thumb: the steering of the reply."""
    better: SteeringRequest | None = None
    worse: SteeringRequest | None = None
    before: SteeringRequest | None = None
    after: SteeringRequest | None = None

    @model_validator(mode="after")
    def _check_complete(self) -> "Feedback":
        needed = {"thumb": ("up", "steering"), "ab": ("better", "worse"), "move": ("before", "after")}[self.kind]
        if missing := [n for n in needed if getattr(self, n) is None]:
            raise ValueError(f"a {self.kind!r} needs {' and '.join(needed)}; {missing[0]} is missing")
        return self


class VectorRequest(BaseModel):
    """POST /v1/vectors."""

    model_config = ConfigDict(extra="forbid")

    user: str | None = Field(default=None, min_length=1, max_length=256)
    """The owner: other users can neither list it nor steer with it. Default: the owner of the key."""
    name: str = Field(pattern=r"^[a-z][a-z0-9._-]{0,63}$")
    """The vector is steered as the feature `vector/<name>`."""
    model: str | None = None
    method: Method = "diffmean"
    a: list[Sample] = Field(min_length=1, max_length=PAIRS)
    """Texts or chats with the property."""
    b: list[Sample] = Field(min_length=1, max_length=PAIRS)
    """Texts or chats without it; ideally equal in all else."""
    replace: bool = False


class ShareRequest(BaseModel):
    """Request to share a steering."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1)
    steering: SteeringRequest | None = None
    seed: Whole | None = Field(default=None, ge=-(2**63), lt=2**63)
    messages: list[MessageInput] | None = Field(default=None, max_length=200)
    title: str | None = Field(default=None, max_length=200)
