"""Settings: the one place that reads the environment. Every field is `TILLER_<NAME>` there and a flag of `tiller serve`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from steering.spec import MAX_FEATURES

EMBEDDED = Path(__file__).parent.parent / "sae_weights" / "harbor"


class Settings(BaseSettings):
    """How one server runs."""

    model_config = SettingsConfigDict(env_prefix="TILLER_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    data_dir: Path = Path.home() / ".local" / "share" / "tiller"
    """Where presets and settings are kept."""
    bundle: Path = EMBEDDED
    """A folder with `bundle.json`."""
    model: str | None = None
    """A folder or hub id that replaces the model which the bundle names."""
    engine: Literal["transformers", "vllm"] = "transformers"
    vllm: tuple[str, ...] = ()
    """vLLM's own flags, as its command line takes them."""
    device: str = "auto"
    dtype: str = "auto"
    workers: int = Field(default=1, ge=1)
    """Replicas on one address, each with the model; more than one needs Redis."""
    browser: bool = True
    live: int = Field(default=16, ge=1)
    """How many replies are generated at a time."""
    queue: int = Field(default=64, ge=1)
    """How many requests wait before new ones are turned away."""
    prefix_mb: int = Field(default=256, ge=0)
    """How much memory keeps what earlier turns have computed; 0 keeps nothing."""
    max_push: float = Field(default=4.0, gt=0)
    """Policy: the longest summed push, in typical lengths of the stream."""
    max_features: int = Field(default=MAX_FEATURES, ge=1, le=MAX_FEATURES)
    """Policy: how many features one request may steer."""
    max_body: int = 1 << 20
    """Bytes of a request's body."""
    max_import: int = 64 << 20
    """The same of what comes in as a whole: `/v1/import` and `/v1/presets/import`."""
    shares: bool = False
    """Whether people may put a steering, with what was said if they like, under an address for others."""
    share_bytes: int = Field(default=1 << 16, ge=1)
    """How long one may be."""
    share_days: float = Field(default=30, gt=0)
    """For how long it is kept."""
    share_most: int = Field(default=1000, ge=1)
    """How many there may be at a time."""
    corpus: tuple[Path, ...] = ()
    """Text that the SAE keeps explaining: lines or JSONL; the bundle's own if none is named."""
    update_hours: float = Field(default=0, ge=0)
    """Update the SAE so often if people have given text; 0: only when the text has drifted, or by hand."""
    live_texts: int = Field(default=50, ge=1)
    """How many conversations are kept of each user who agreed."""
    live_days: float = Field(default=7, gt=0)
    """For how long."""
    trainer: bool = True
    """Whether `tiller serve` brings a trainer along."""
    look_seconds: float = Field(default=600, gt=0)
    """How often the trainer looks whether the text has moved away from the SAE."""
    redis_url: str | None = None
    """Where all that is kept lies and jobs queue, for several servers; SQLite files in the data directory if not given."""
    label_url: str | None = None
    """An endpoint in OpenAI's shape, such as `https://host/v1`, whose model names features and judges the names."""
    label_model: str | None = None
    """Which model of it."""
    label_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """Its key; never written anywhere: a job's process reads it from the environment again."""
    meaning_model: str | None = None
    """A model of sentence-transformers, a folder or hub id, by which features are searched by meaning."""
    job_kinds: tuple[str, ...] = ()
    """More types of job, `name=module:attribute`."""
