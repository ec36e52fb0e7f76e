"""Job: its states, its fields, and the request that starts one."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
ENDED = ("succeeded", "failed", "cancelled")


class JobRequest(BaseModel):
    """Request to create a job."""

    model_config = ConfigDict(extra="forbid")

    type: str
    config: dict[str, Any] = {}
    idempotency_key: str | None = Field(default=None, min_length=1, max_length=200)


class Job(BaseModel):
    """State of a job."""

    model_config = ConfigDict(frozen=True)

    id: str
    type: str
    config: dict[str, Any]
    tenant: str = ""
    owner: str | None = None
    """Owner of the key that created the job; null without keys, and for jobs of the trainer."""
    state: State = "queued"
    progress: float = 0.0
    eta_s: float | None = None
    created: float
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    metrics: dict[str, float] = {}
    error: str | None = None
    result: dict[str, Any] = {}
