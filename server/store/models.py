"""Values that a store keeps: keys, votes, texts, shares, audit records."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from steering.catalogue.feature_edits import FeatureEdit
from steering.spec import Preset, Vector

Role = Literal["viewer", "user", "creator", "researcher", "admin"]
"""Each may do what those before it may, and more: presets; features with a measured dose; any named feature, and
presets of one's own; vectors and measurements; everything."""
ROLES: tuple[Role, ...] = get_args(Role)
SESSION = "session_secret"
"""The setting that signs what browsers keep in place of a key."""
Restored = Literal["created", "replaced", "unchanged"]


class RateLimits(BaseModel):
    """How much may be asked for with one key; None is as much as the server can do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int | None = Field(default=None, ge=1)
    """A minute, of those that do something."""
    tokens: int | None = Field(default=None, ge=1)
    """A minute, of prompts and replies together."""
    concurrent: int | None = Field(default=None, ge=1)
    """Replies at a time."""
    specs: int | None = Field(default=None, ge=1)
    """Different steerings an hour: a search for one that breaks the model needs many."""

    def with_defaults(self, usual: "RateLimits") -> "RateLimits":
        """These, with the usual ones where nothing is said."""
        return RateLimits(**{**usual.model_dump(), **self.model_dump(exclude_none=True)})


class Key(BaseModel):
    """One key, as it is kept: its secret was shown once and is nowhere."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    prefix: str
    digest: str
    role: Role
    tenant: str = ""
    """Those who share what they make for each other; the empty one is whoever runs the server."""
    owner: str
    """Who it is; two keys of one owner and tenant are the same person's."""
    limits: RateLimits = RateLimits()
    default_preset: str | None = None
    """What is steered where a request leaves it open; the server's own default if not given."""
    created: int
    expires: int | None = None

    def is_valid(self, now: float | None = None) -> bool:
        """Whether it can still be used."""
        return self.expires is None or self.expires > (time.time() if now is None else now)


@dataclass(frozen=True)
class LiveText:
    """A conversation that somebody who agreed has given to learn from."""

    user: str
    messages: str
    """JSON, as a chat's."""
    created: float


@dataclass(frozen=True)
class StoredVote:
    """What somebody said of one slider."""

    subject: str
    """`preset:<id>`, about its scale, or `feature:<id>`."""
    dose: float
    liked: float
    weight: float
    created: float


@dataclass(frozen=True)
class VoteBatch:
    """The votes that somebody gave at once."""

    kind: str
    votes: tuple[StoredVote, ...]


@dataclass(frozen=True)
class UserData:
    """What is kept for one model that a user may take along."""

    presets: tuple[Preset, ...] = ()
    edits: Mapping[int, FeatureEdit] = field(default_factory=dict)
    """By the feature's number."""
    vectors: tuple[Vector, ...] = ()
    said: tuple[VoteBatch, ...] = ()


@dataclass(frozen=True)
class Share:
    """Something that whoever has its id can read."""

    id: str
    key: str
    """SHA-256 of what deletes it."""
    content: str
    """JSON."""
    created: int
    expires: int
    tenant: str = ""
    owner: str = ""
    """Whose key made it; empty where there were none."""


@dataclass(frozen=True)
class Record:
    """One thing that is kept, as a backup holds it."""

    kind: Literal["preset", "setting", "consent", "text", "said", "edit", "vector", "share", "key"]
    value: Mapping[str, Any]
    """JSON; whose it is stands in it."""
