"""Settings: the one place that reads the environment. Every field is a flag, `TILLER_<NAME>` there, and a line of a TOML file.

A flag wins over the environment, that over the file, that over the default. The docstring of a field is its help, and
its row in docs/reference/configuration.md.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from server import validation
from steering.errors import SteeringError
from steering.spec import MAX_FEATURES

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
"""Hosts that only this machine can reach."""
HANDED = "TILLER_HANDED"
"""No setting, but all of them, as JSON, from one of our processes to another."""
ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:\d{1,5})?")
"""Where a page comes from, as browsers write it: no path, nothing after it."""
SHORTEST_KEY = 32
"""Characters of a key that somebody makes up."""
EMBEDDED = Path(__file__).parent.parent / "sae_weights" / "harbor"


class BadSettings(SteeringError):
    """A setting that can't be; the message says where it stands and what was expected."""


class Settings(BaseSettings):
    """How one server runs."""

    model_config = SettingsConfigDict(env_prefix="TILLER_", frozen=True, extra="ignore", use_attribute_docstrings=True)

    config: Path | None = None
    """A TOML file that holds any of these by name."""
    host: str = "127.0.0.1"
    """Address to listen on; the default is this machine only."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    data_dir: Path = Path.home() / ".local" / "share" / "tiller"
    """Where presets and settings are kept."""
    bundle: Path = EMBEDDED
    """A folder with `bundle.json`."""
    model: str | None = None
    """A folder or hub id that replaces the model which the bundle names."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates; with `vllm`, flags that are not Tiller's are passed on to it."""
    vllm: tuple[str, ...] = ()
    """vLLM's own flags, as its command line takes them."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`."""
    dtype: str = "auto"
    """Of the model's numbers, such as `bfloat16`; `auto` takes what the checkpoint has, or what the device is good at."""
    workers: int = Field(default=1, ge=1)
    """Replicas on one address, each with the model; more than one needs Redis."""
    browser: bool = True
    """Open the page when the server is ready."""
    live: int = Field(default=16, ge=1)
    """How many replies are generated at a time."""
    queue: int = Field(default=64, ge=1)
    """How many requests wait before new ones are turned away."""
    prefix_mb: int = Field(default=256, ge=0)
    """How much memory keeps what earlier turns have computed; 0 keeps nothing."""
    admin_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """A key with the role `admin` that is kept nowhere, of 32 characters and more: the first one of a server that others can reach."""
    origins: tuple[str, ...] = ()
    """Other sites whose pages may call the API from a browser, such as `https://app.example`; where there are keys, with one."""
    default_preset: str | None = None
    """A preset that is steered where a request leaves that open; `/v1/me` and every reply tell of it."""
    policy: Path | None = None
    """A TOML file with limits for named features, and for roles; docs/guides/keys_and_roles.md says how."""
    drain_seconds: float = Field(default=5, ge=0)
    """How long running replies have to end when the server is told to; new requests are turned away meanwhile."""
    probe: Path | None = None
    """A folder with a probe that reads prompts and replies below the steered layer; docs/guides/guards.md says how to make one."""
    openers: tuple[str, ...] = ()
    """How this model begins a refusal, such as "I can't help"; where it would refuse unsteered, it is not steered."""
    tau: float = Field(default=0.2, gt=0, lt=1)
    """From which probability of a refusal on."""
    hold_back: int = Field(default=16, ge=0, le=512)
    """Tokens of a reply that are held back until the probe has read them."""
    read_every: int = Field(default=8, ge=1, le=512)
    """Tokens of a reply between two readings."""
    max_push: float = Field(default=4.0, gt=0)
    """Policy: the longest summed push, in typical lengths of the stream."""
    max_features: int = Field(default=MAX_FEATURES, ge=1, le=MAX_FEATURES)
    """Policy: how many features one request may steer."""
    max_body: int = 1 << 20
    """Bytes of a request's body."""
    max_import: int = 64 << 20
    """The same of what comes in as a whole document: `/v1/import` and `/v1/presets/import`."""
    shares: bool = False
    """Whether people may put a steering, with what was said if they like, under an address for others."""
    share_bytes: int = Field(default=1 << 16, ge=1)
    """Bytes of one share."""
    share_days: float = Field(default=30, gt=0)
    """For how long a share is kept."""
    share_most: int = Field(default=1000, ge=1)
    """How many shares there may be at a time."""
    corpus: tuple[Path, ...] = ()
    """Text that the SAE keeps explaining: lines or JSONL; the bundle's own if none is named."""
    update_hours: float = Field(default=0, ge=0)
    """Update the SAE so often if people have given text; 0: only when the text has drifted, or by hand."""
    text_key: SecretStr | None = Field(default=None, exclude=True, repr=False, min_length=32)
    """What conversations that people give are sealed with; with a trainer on another machine, the same on both. Without, `text.key` in the data directory."""
    live_texts: int = Field(default=50, ge=1)
    """How many conversations are kept of each user who agreed."""
    live_days: float = Field(default=7, gt=0)
    """For how many days those are kept."""
    trainer: bool = True
    """Whether `tiller serve` brings a trainer along."""
    look_seconds: float = Field(default=600, gt=0)
    """How often the trainer looks whether the text has moved away from the SAE."""
    redis_url: str | None = None
    """Where all that is kept lies and jobs queue, for several servers; SQLite files in the data directory if not given."""
    label_url: str | None = None
    """An endpoint in OpenAI's shape, such as `https://host/v1`, whose model names features and judges the names."""
    label_model: str | None = None
    """Which model of that endpoint."""
    label_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """The endpoint's key; never written anywhere: a job's process reads it again."""
    meaning_model: str | None = None
    """A model of sentence-transformers, a folder or hub id, by which features are searched by meaning."""
    log: Literal["auto", "json", "pretty"] = "auto"
    """How lines of the log look; `auto`: for people on a terminal, else JSON."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is worth a line; each request is one at `info`, what the page and probes ask for at `debug`."""
    otel_endpoint: str | None = None
    """An OpenTelemetry collector, such as `http://localhost:4318`, that spans are sent to; needs `tiller[otel]`."""
    job_kinds: tuple[str, ...] = ()
    """More types of job, `name=module:attribute`."""

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        """As browsers write them. `*` is none: every page that somebody opens could use the server."""
        for origin in given:
            if re.fullmatch(r"https://.*:443|http://.*:80", origin):
                raise ValueError(f"{origin!r} is no origin: browsers leave out the port where it is the usual one")
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: scheme, host and port as browsers send them, such as https://app.example"
                )
        return given

    @field_validator("admin_key", mode="before")
    @classmethod
    def _hard_to_guess(cls, given: object) -> object:
        """An empty one is none, as compose files and charts leave it."""
        said = given.get_secret_value() if isinstance(given, SecretStr) else given
        if not isinstance(said, str) or not (said := said.strip()):
            return None if said == "" else said
        if len(said) < SHORTEST_KEY:
            raise ValueError(
                f"a key of fewer than {SHORTEST_KEY} characters can be guessed; make one with `openssl rand -hex 24`"
            )
        return said

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is theirs
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Whence values come, what wins first."""
        return init_settings, env_settings, _File(settings_cls), _Bare(settings_cls)


def load_settings(**given: object) -> Settings:
    """The settings with what was given on the command line; None is not given. Raises BadSettings."""
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        problem, said = validation.first_error(error.errors())
        field, place = str(problem["loc"][0]), ".".join(map(str, problem["loc"]))
        if is_secret(field):  # the sentence would say what was given
            said = str(problem["msg"]).removeprefix("Value error, ")
        raise BadSettings(f"{_origin(field, given)}: {place}: {said[:1].lower()}{said[1:]}") from error
    except SettingsError as error:  # what is no JSON in the environment
        field = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), "")
        raise BadSettings(f'{variable(field)}: expected a list in JSON, such as \'["one", "two"]\'') from error


def origins(**given: object) -> dict[str, str]:
    """Where each setting comes from: its flag, its variable, the file, or `default`. Raises BadSettings."""
    given = {name: value for name, value in given.items() if value is not None}
    return {name: _origin(name, given) for name in Settings.model_fields}


def unknown_variables() -> dict[str, str]:
    """Variables that look like settings and are none, with the nearest that is one, or nothing."""
    known = {variable(name): name for name in Settings.model_fields}
    strange = [name for name in os.environ if name.startswith("TILLER_") and name not in known]
    return {name: _nearest(name, known) for name in sorted(strange)}


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of a process of ours that is to have these settings: command lines are for everybody at this machine to read."""
    return {**os.environ, HANDED: settings.model_dump_json()}


def inherited_settings() -> Settings | None:
    """What whoever began this process has handed it; for once, so that what it begins itself does not have it, too."""
    given = os.environ.pop(HANDED, None)
    return Settings.model_validate_json(given) if given else None


def is_secret(field: str) -> bool:
    """Whether a setting's value is never shown."""
    return "SecretStr" in str(Settings.model_fields[field].annotation)


def flag(field: str) -> str:
    """What a setting is called on the command line."""
    return f"--{field.replace('_', '-')}"


def variable(field: str) -> str:
    """What it is called in the environment."""
    return f"TILLER_{field.upper()}"


class _File(PydanticBaseSettingsSource):
    """The TOML file that flag or environment name."""

    def __call__(self) -> dict[str, Any]:
        named = self.current_state.get("config")
        return _from_file(Path(named)) if named else {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - theirs
        return None, field_name, False


BARE = {"redis_url": "REDIS_URL", "otel_endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT"}
"""What platforms set under a name of their own; weaker than all else but the default."""


class _Bare(PydanticBaseSettingsSource):
    """What `BARE` names."""

    def __call__(self) -> dict[str, Any]:
        return {field: found for field, name in BARE.items() if (found := os.environ.get(name))}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - theirs
        return None, field_name, False


def _from_file(file: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSettings(f"cannot read {str(file)!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSettings(f"{file}: no TOML: {error}") from error
    known = [name for name in Settings.model_fields if name != "config"]
    for key in found:
        if key not in known:
            near = _nearest(key, known)
            way_out = f"did you mean {near!r}?" if near else "`tiller config --reference` lists those there are"
            raise BadSettings(f"{file}: there is no setting {key!r}; {way_out}")
    return found


def _nearest(name: str, known: Any) -> str:  # noqa: ANN401 - names, in whatever holds them
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), "")


def _origin(field: str, given: Mapping[str, object]) -> str:
    if field in given:
        return flag(field)
    environment = EnvSettingsSource(Settings)()
    if field in environment:
        return variable(field)
    named = given.get("config") or environment.get("config")
    if named and field in _from_file(Path(str(named))):
        return str(named)
    return BARE[field] if field in _Bare(Settings)() else "default"
