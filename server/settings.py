"""Settings: a field per setting; each is an option, an environment variable `TILLER_<NAME>` and a line of a TOML file.

An option overrides the environment, which overrides the file, which overrides the default. The
docstring of a field is its help, and its row in docs/reference/configuration.md. Only this module
reads the environment.
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
"""Variable with all settings as JSON, from a parent process to its child; not a setting."""
ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:\d{1,5})?")
"""Origin as browsers send it: no path, nothing after the port."""
SHORTEST_KEY = 32
"""Minimum length of an admin key, in characters."""
SHIPPED = Path(__file__).parent.parent / "sae_weights"
"""Folder of the bundles that come with Tiller; a setting may name one of them."""
EMBEDDED, FALLBACK = SHIPPED / "smollm2", SHIPPED / "harbor"
"""Default bundle, and the one that brings its own model."""


def bundle_folder(given: Path) -> Path:
    """The folder of a bundle: a shipped one if `given` is a bare name that names no folder here."""
    shipped = SHIPPED / given
    bare = len(given.parts) == 1 and not given.exists()
    return shipped if bare and (shipped / "bundle.json").is_file() else given


class BadSettings(SteeringError):
    """Invalid setting; the message names its source and what was expected."""


class Settings(BaseSettings):
    """Configuration of one server."""

    model_config = SettingsConfigDict(env_prefix="TILLER_", frozen=True, extra="ignore", use_attribute_docstrings=True)

    config: Path | None = None
    """TOML file with any of these settings."""
    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine only."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 selects a free one."""
    data_dir: Path = Path.home() / ".local" / "share" / "tiller"
    """Folder for presets, settings, jobs and all other data."""
    bundle: Path = EMBEDDED
    """Folder with `bundle.json`, or the name of a bundle that comes with Tiller, such as `harbor`."""
    model: str | None = None
    """Folder or hub id that replaces the bundle's model."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """Inference engine; with `vllm`, unknown options are passed on to vLLM."""
    vllm: tuple[str, ...] = ()
    """vLLM's own options, as on its command line."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`."""
    dtype: str = "auto"
    """Data type of the weights, such as `bfloat16`; `auto` uses the checkpoint's, or the best one for the device."""
    weights: Literal["auto", "float32", "bfloat16", "int8", "int4"] = "auto"
    """Weights that tokens are generated with on a CPU, for the Llama family; `auto`: 4 bits where they lose nothing, else 8."""
    workers: int = Field(default=1, ge=1)
    """Number of replicas on one address, each with its own model; more than one needs Redis."""
    browser: bool = True
    """Open the page in a browser when the server is ready."""
    live: int = Field(default=16, ge=1)
    """Maximum number of replies generated at a time."""
    queue: int = Field(default=64, ge=1)
    """Maximum number of waiting requests; further ones get a 429."""
    prefix_mb: int = Field(default=256, ge=0)
    """Memory for the prefix cache, in MB; 0 disables it."""
    admin_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """API key with the role `admin`, at least 32 characters, that is not stored: the first key of a server that other machines can reach."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may call the API from a browser (CORS), such as `https://app.example`; if there are keys, requests need one."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies before the server, such as `10.0.0.0/8`: their `X-Forwarded-For` says where a sign-in comes from."""
    default_preset: str | None = None
    """Preset that is applied where a request names none; `/v1/me` and every reply report it."""
    policy: Path | None = None
    """TOML file with limits for features and roles; see docs/guides/keys_and_roles.md."""
    drain_seconds: float = Field(default=5, ge=0)
    """Seconds that running replies have to finish at shutdown; new requests are rejected meanwhile."""
    probe: Path | None = None
    """Folder with a probe that checks prompts and replies below the steered layer; see docs/guides/guards.md."""
    openers: tuple[str, ...] = ()
    """Openings of this model's refusals, such as "I can't help"; where it would refuse unsteered, it is not steered."""
    tau: float = Field(default=0.2, gt=0, lt=1)
    """Probability of a refusal from which on a turn is not steered."""
    hold_back: int = Field(default=16, ge=0, le=512)
    """Tokens of a reply that are held back until the probe has checked them."""
    read_every: int = Field(default=8, ge=1, le=512)
    """Tokens of a reply between two checks of the probe."""
    max_push: float = Field(default=4.0, gt=0)
    """Policy: maximum summed push, in typical lengths of the stream."""
    max_features: int = Field(default=MAX_FEATURES, ge=1, le=MAX_FEATURES)
    """Policy: maximum number of features that one request may steer."""
    max_body: int = 1 << 20
    """Maximum size of a request body, in bytes."""
    max_import: int = 8 << 20
    """Maximum size of an imported document, in bytes: `/v1/import` and `/v1/presets/import`."""
    shares: bool = False
    """Allow users to share a steering, optionally with its messages, by link."""
    share_bytes: int = Field(default=1 << 16, ge=1)
    """Maximum size of a share, in bytes."""
    share_days: float = Field(default=30, gt=0)
    """Days until a share expires."""
    share_most: int = Field(default=1000, ge=1)
    """Maximum number of shares."""
    corpus: tuple[Path, ...] = ()
    """Text that the SAE must keep explaining: lines or JSONL; default: the bundle's own."""
    update_hours: float = Field(default=0, ge=0)
    """Hours between SAE updates, if users have contributed text; 0: only after drift, or by hand."""
    text_key: SecretStr | None = Field(default=None, exclude=True, repr=False, min_length=32)
    """Key that encrypts contributed conversations; must be the same for a trainer on another machine. Default: `text.key` in the data directory."""
    live_texts: int = Field(default=50, ge=1)
    """Number of conversations kept per consenting user."""
    live_days: float = Field(default=7, gt=0)
    """Days until a kept conversation is deleted."""
    trainer: bool = True
    """Whether `tiller serve` starts a trainer."""
    look_seconds: float = Field(default=600, gt=0)
    """Seconds between the trainer's drift checks."""
    redis_url: str | None = None
    """Redis for the store and the job queue, needed by several servers; default: SQLite files in the data directory."""
    label_url: str | None = None
    """OpenAI-compatible API, such as `https://host/v1`, whose model labels features and scores the labels."""
    label_model: str | None = None
    """Model of that API."""
    label_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """API key for it; never written to disk: each job's process reads it again."""
    meaning_model: str | None = None
    """Folder or hub id of a sentence-transformers model for feature search by meaning."""
    log: Literal["auto", "json", "pretty"] = "auto"
    """Log format; `auto`: pretty on a terminal, JSON otherwise."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level of log lines; requests are logged at `info`, polling by the page and probes at `debug`."""
    otel_endpoint: str | None = None
    """OpenTelemetry collector for spans, such as `http://localhost:4318`; needs `tiller[otel]`."""
    job_kinds: tuple[str, ...] = ()
    """Additional job types, `name=module:attribute`."""

    @field_validator("*", mode="before")
    @classmethod
    def _check_encoding(cls, given: object) -> object:
        if any("\ud800" <= c <= "\udfff" for c in str(given)):
            raise ValueError(f"{str(given).encode(errors='surrogateescape')!r} is not UTF-8; write it in UTF-8")
        return given

    @field_validator("bundle")
    @classmethod
    def _resolve_shipped(cls, given: Path) -> Path:
        return bundle_folder(given)

    @field_validator("origins")
    @classmethod
    def _check_origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        """Origins as browsers send them. `*` is invalid: any page a user opens could call the server."""
        for origin in given:
            if re.fullmatch(r"https://.*:443|http://.*:80", origin):
                raise ValueError(f"{origin!r} is not an origin: browsers leave out the port where it is the usual one")
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin: scheme, host and port as browsers send them, such as https://app.example"
                )
        return given

    @field_validator("admin_key", mode="before")
    @classmethod
    def _check_admin_key(cls, given: object) -> object:
        """An empty key is no key: compose files and charts leave it empty."""
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
        """Sources of settings, in order of precedence."""
        return init_settings, env_settings, _File(settings_cls), _Bare(settings_cls)


def load_settings(**given: object) -> Settings:
    """The settings with the command line's values; None is not set. Raises BadSettings."""
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        problem, text = validation.first_error(error.errors())
        field, place = str(problem["loc"][0]), ".".join(map(str, problem["loc"]))
        if is_secret(field):  # the default message would contain the value
            text = str(problem["msg"]).removeprefix("Value error, ")
        raise BadSettings(f"{_origin(field, given)}: {place}: {text[:1].lower()}{text[1:]}") from error
    except SettingsError as error:  # invalid JSON in the environment
        field = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), "")
        raise BadSettings(f'{variable(field)}: expected a list in JSON, such as \'["one", "two"]\'') from error


def origins(**given: object) -> dict[str, str]:
    """Source of each setting: its option, its variable, the file, or `default`. Raises BadSettings."""
    given = {name: value for name, value in given.items() if value is not None}
    return {name: _origin(name, given) for name in Settings.model_fields}


def unknown_variables() -> dict[str, str]:
    """Variables that look like settings but are not, with the nearest setting, or nothing."""
    known = {variable(name): name for name in Settings.model_fields}
    strange = [name for name in os.environ if name.startswith("TILLER_") and name not in known]
    return {name: _nearest(name, known) for name in sorted(strange)}


def child_environment(settings: Settings) -> dict[str, str]:
    """Environment of a child process with these settings: command lines are visible to all users of the machine."""
    return {**os.environ, HANDED: settings.model_dump_json()}


def inherited_settings() -> Settings | None:
    """Settings from the parent process; removed from the environment, so that this process'
    children do not inherit them."""
    given = os.environ.pop(HANDED, None)
    return Settings.model_validate_json(given) if given else None


def is_secret(field: str) -> bool:
    """Whether a setting's value is never printed."""
    return "SecretStr" in str(Settings.model_fields[field].annotation)


def flag(field: str) -> str:
    """Command-line option of a setting."""
    return f"--{field.replace('_', '-')}"


def variable(field: str) -> str:
    """Environment variable of a setting."""
    return f"TILLER_{field.upper()}"


class _File(PydanticBaseSettingsSource):
    """TOML file that the option or the environment names."""

    def __call__(self) -> dict[str, Any]:
        named = self.current_state.get("config")
        return _from_file(Path(named)) if named else {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - theirs
        return None, field_name, False


BARE = {"redis_url": "REDIS_URL", "otel_endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT"}
"""Variables that platforms set under their own names; they override only the default."""


class _Bare(PydanticBaseSettingsSource):
    """Values of `BARE`."""

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
