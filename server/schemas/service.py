"""Schemas of jobs, limits, health and version."""

from typing import Literal

from pydantic import BaseModel, JsonValue

from server.schemas.jobs import Job
from server.schemas.pages import Page


class JobList(Page[Job]):
    """A page of jobs."""


class JobDeleted(BaseModel):
    """A job was deleted."""

    id: str
    deleted: Literal[True]


class Artifact(BaseModel):
    """A file of a job."""

    name: str
    bytes: int
    sha256: str


class ArtifactList(BaseModel):
    """A job's files."""

    object: Literal["list"]
    data: list[Artifact]


class Limits(BaseModel):
    """The server's configuration and limits, by section."""

    object: Literal["limits"]
    server: dict[str, JsonValue]
    model: dict[str, JsonValue]
    sae: dict[str, JsonValue]
    steering: dict[str, JsonValue]
    requests: dict[str, JsonValue]
    sweep: dict[str, JsonValue]
    users: dict[str, JsonValue]
    training: dict[str, JsonValue]
    labels: dict[str, JsonValue]
    meaning: dict[str, JsonValue]
    shares: dict[str, JsonValue]
    keys: dict[str, JsonValue]


class Alive(BaseModel):
    """Liveness: the process is running."""

    status: Literal["ok"]


class Health(Alive):
    """Readiness: the server can answer requests."""

    engine: str
    model: str
    revision: str
    swap_error: str | None
    store: str
    store_error: str | None
    single_process: bool
    version: str


class Versions(BaseModel):
    """Versions of the server and its components."""

    version: str
    git: str | None
    engine: str
    torch: str
    transformers: str
    vllm: str | None
