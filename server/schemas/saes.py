"""Schemas of the SAE's revisions, their changes, training texts and drift."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from server.schemas.pages import Page


class SaeSummary(BaseModel):
    """An SAE revision; `error` is set if it is damaged."""

    id: str
    object: Literal["sae"]
    active: bool
    bundle: str = ""
    parent: str | None = None
    created: int = 0
    model: str = ""
    hook: str = ""
    d_in: int = 0
    d_sae: int = 0
    figures: dict[str, float] = {}
    error: str = ""


class SaeList(Page[SaeSummary]):
    """All revisions."""


class SaeDetail(SaeSummary):
    """A revision with its report."""

    report: dict[str, Any]
    retired: list[dict[str, Any]]
    sha256: dict[str, str]


class Activated(BaseModel):
    """The revision served before, and the one served now."""

    previous: str
    active: str


class ChangePage(Page[dict[str, Any]]):
    """A page of changed features."""

    total: int


class SaeChanges(BaseModel):
    """Differences between two revisions."""

    object: Literal["sae.changes"]
    revision: str
    since: str
    kept: int
    added: ChangePage
    retired: ChangePage
    moved: ChangePage
    stale: ChangePage
    relabelled: ChangePage
    remeasured: ChangePage
    presets: ChangePage


class Consent(BaseModel):
    """A user's consent."""

    model_config = ConfigDict(extra="forbid")

    user: str | None = Field(default=None, min_length=1, max_length=256)
    """The `user` that the user's requests carry; default: the owner of the key."""
    consent: bool


class ConsentState(BaseModel):
    """A user's training consent, and the number of texts kept."""

    user: str | None
    consent: bool
    texts: int
    most: int
    days: float


class TextsDeleted(BaseModel):
    """Number of texts deleted."""

    user: str | None
    deleted: int


class DriftCheck(BaseModel):
    """One drift measurement of the trainer."""

    at: float
    revision: str
    alarms: list[str]
    did: str | None
    corpus: dict[str, JsonValue] | None
    live: dict[str, JsonValue] | None


class Drift(Page[DriftCheck]):
    """The trainer's drift measurements."""

    revision: str
    baseline: dict[str, dict[str, JsonValue] | None]
    look_seconds: float
    update_hours: float
    given: int | None
    """Number of conversations contributed for training; null while the store is unavailable."""
