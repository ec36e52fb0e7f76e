"""Stored values: keys, votes, texts, shares, backup records."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from steering.catalogue.feature_edits import FeatureEdit
from steering.spec import Preset, Vector

Role = Literal["viewer", "user", "creator", "researcher", "admin"]
"""Each role includes the ones before: presets; features with a measured dose; any labelled feature,
and own presets; vectors and measurements; everything."""
ROLES: tuple[Role, ...] = get_args(Role)
SESSION = "session_secret"
"""Setting with the secret that signs session cookies."""
Restored = Literal["created", "replaced", "unchanged"]


class RateLimits(BaseModel):
    """Rate limits of one key; None for no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int | None = Field(default=None, ge=1)
    """Requests per minute, not counting reads."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens per minute, prompts and replies together."""
    concurrent: int | None = Field(default=None, ge=1)
    """Concurrent replies."""
    specs: int | None = Field(default=None, ge=1)
    """Distinct steerings per hour: a search for one that breaks the model needs many."""

    def with_defaults(self, usual: "RateLimits") -> "RateLimits":
        """These limits, with defaults for those not set."""
        return RateLimits(**{**usual.model_dump(), **self.model_dump(exclude_none=True)})


class Key(BaseModel):
    """A stored key: its secret was shown once and is not stored."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    prefix: str
    digest: str
    role: Role
    tenant: str = ""
    """Callers with the same tenant share their presets; the operator's tenant is empty."""
    owner: str
    """Owner; two keys of one owner and tenant belong to the same person."""
    limits: RateLimits = RateLimits()
    default_preset: str | None = None
    """Preset that is applied where a request names none; default: the server's."""
    created: int
    expires: int | None = None

    def is_valid(self, now: float | None = None) -> bool:
        """Whether the key has not expired."""
        return self.expires is None or self.expires > (time.time() if now is None else now)


@dataclass(frozen=True)
class LiveText:
    """A conversation of a consenting user, for training."""

    user: str
    messages: str
    """JSON, in the format of a chat's messages."""
    created: float


@dataclass(frozen=True)
class StoredVote:
    """A vote on one slider."""

    subject: str
    """`preset:<id>`, for its scale, or `feature:<id>`."""
    dose: float
    liked: float
    weight: float
    created: float


@dataclass(frozen=True)
class VoteBatch:
    """Votes of one feedback."""

    kind: str
    votes: tuple[StoredVote, ...]


@dataclass(frozen=True)
class UserData:
    """A user's data for one model, for export."""

    presets: tuple[Preset, ...] = ()
    edits: Mapping[int, FeatureEdit] = field(default_factory=dict)
    """By feature number."""
    vectors: tuple[Vector, ...] = ()
    said: tuple[VoteBatch, ...] = ()


@dataclass(frozen=True)
class Share:
    """A share, readable by anyone with its id."""

    id: str
    key: str
    """SHA-256 of the key that deletes it."""
    content: str
    """JSON."""
    created: int
    expires: int
    tenant: str = ""
    owner: str = ""
    """Owner of the key that created it; empty without keys."""


@dataclass(frozen=True)
class Record:
    """One record of a backup."""

    kind: Literal["preset", "setting", "consent", "text", "said", "edit", "vector", "share", "key"]
    value: Mapping[str, Any]
    """JSON, the owner included."""
