"""What users keep: vectors, defaults, presets, shares. Schemas alone."""

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

    data: list[VectorInfo]


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


PAIRS = 64


class Feedback(BaseModel):
    """One thing that somebody said of a reply."""

    model_config = ConfigDict(extra="forbid")

    user: str | None = Field(default=None, min_length=1, max_length=256)
    """Who says it; with a key, its owner if not given."""
    kind: Literal["thumb", "ab", "move"]
    up: bool | None = None
    """Of a thumb."""
    steering: SteeringRequest | None = None
    """Of the reply that a thumb is about."""
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
    """Whose it is: nobody else can list it or steer by it. With a key, its owner's if not given."""
    name: str = Field(pattern=r"^[a-z][a-z0-9._-]{0,63}$")
    """It steers as the feature `vector/<name>`."""
    model: str | None = None
    method: Method = "diffmean"
    a: list[Sample] = Field(min_length=1, max_length=PAIRS)
    """Texts or chats that have it."""
    b: list[Sample] = Field(min_length=1, max_length=PAIRS)
    """Such that have not; best the same in all else."""
    replace: bool = False


class ShareRequest(BaseModel):
    """What is shared."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1)
    steering: SteeringRequest | None = None
    seed: Whole | None = Field(default=None, ge=-(2**63), lt=2**63)
    messages: list[MessageInput] | None = Field(default=None, max_length=200)
    title: str | None = Field(default=None, max_length=200)
