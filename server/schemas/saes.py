"""The SAE, its revisions and changes, and what it learns from. Schemas alone."""

from typing import Any, Literal

from pydantic import BaseModel, JsonValue

from server.schemas.pages import Page


class SaeSummary(BaseModel):
    """A revision; `error` says what is wrong with one that is damaged."""

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


class SaeList(Page):
    """All revisions."""

    data: list[SaeSummary]


class SaeDetail(SaeSummary):
    """A revision with its report."""

    report: dict[str, Any]
    retired: list[dict[str, Any]]
    sha256: dict[str, str]


class Activated(BaseModel):
    """Which revision was served, and which is."""

    previous: str
    active: str


class ChangePage(Page):
    """A page of features that are not as they were."""

    data: list[dict[str, Any]]
    total: int


class SaeChanges(BaseModel):
    """What one revision has otherwise than another."""

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


class ConsentState(BaseModel):
    """Whether a user agrees to be learnt from, and how much is kept of them."""

    user: str | None
    consent: bool
    texts: int
    most: int
    days: float


class TextsDeleted(BaseModel):
    """How many texts are gone."""

    user: str | None
    deleted: int


class DriftCheck(BaseModel):
    """What the trainer saw at one time."""

    at: float
    revision: str
    alarms: list[str]
    did: str | None
    corpus: dict[str, JsonValue] | None
    live: dict[str, JsonValue] | None


class Drift(Page):
    """What the trainer's looks have measured."""

    data: list[DriftCheck]
    revision: str
    baseline: dict[str, dict[str, JsonValue] | None]
    look_seconds: float
    update_hours: float
    given: int | None
    """How many conversations people have given to learn from; null while the store cannot be asked."""
