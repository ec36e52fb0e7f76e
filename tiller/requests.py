"""Requests: URL, body and response parser of each client method, one value per request.

Both clients send these, one with `await` and one without, so that whatever they say and understand is said here once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from tiller.errors import TillerError, from_response
from tiller.models import Analysis, Comparison, Feature, Job, Limits, Page, Place, Preset, Raw, Reply, Suggestion

T = TypeVar("T")
Messages = Sequence[Mapping[str, Any]]
Steering = Mapping[str, Any]
TIMEOUT = httpx.Timeout(10, read=300)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Request(Generic[T]):
    """One request, and what makes a value of its answer."""

    method: str
    path: str
    read: Callable[[Any], T]
    body: Raw | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def httpx_kwargs(self) -> dict[str, Any]:
        """As httpx takes it."""
        return {
            "method": self.method,
            "url": self.path,
            "json": self.body,
            "params": dict(self.params),
            "headers": dict(self.headers),
        }

    def with_headers(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """The same with headers that whoever asks sends along."""
        return {**self.httpx_kwargs, "headers": {**headers, **self.headers}}

    def parse(self, answer: httpx.Response) -> T:
        """What the answer says. Raises TillerError."""
        if not answer.is_success:
            raise from_response(answer)
        try:
            return self.read(answer.json())
        except (ValueError, KeyError, TypeError, IndexError) as error:
            message = "the answer cannot be read; is a Tiller server at this address?"
            raise TillerError(message, status=answer.status_code) from error

    def after(self, cursor: str) -> "Request[T]":
        """The same, from the next page."""
        return replace(self, params={**self.params, "cursor": cursor})


def options(base_url: str, key: str | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """What httpx's client is made with; the address may end in `/v1` or not.

    A server on this machine is reached directly, whatever proxy the environment names.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    base = f"{base_url.rstrip('/').removesuffix('/v1')}/v1"
    direct = {"trust_env": False} if urlsplit(base).hostname in LOOPBACK else {}
    return {"timeout": TIMEOUT, **direct, **more, "base_url": base, "headers": {**headers, **more.get("headers", {})}}


def chat(
    *,
    model: str,
    messages: Messages,
    steering: Steering | None,
    seed: int | None,
    stream: bool = False,
    sampling: Mapping[str, Any],
) -> Request[Reply]:
    """A chat; what is None is left to the server."""
    about = {"model": model, "messages": list(messages), "steering": steering, "seed": seed, **sampling}
    return Request(
        "POST", "/chat/completions", Reply.from_json, _without_none(about) | ({"stream": True} if stream else {})
    )


def compare(
    messages: Messages, variants: Sequence[Mapping[str, Any]], *, model: str, seed: int | None, sampling: Steering
) -> Request[Comparison]:
    """The same messages, once for each variant."""
    about = {"model": model, "messages": list(messages), "variants": list(variants), "seed": seed, **sampling}
    return Request("POST", "/steering/compare", Comparison.from_json, _without_none(about))


def features(q: str, *, mode: str, filters: Mapping[str, Any]) -> Request[Page[Feature]]:
    """A page of features."""
    return Request(
        "GET",
        "/features",
        Page[Feature].model_validate,
        params=_without_none({"q": q or None, "mode": mode, **filters}),
    )


def feature(feature_id: str) -> Request[Feature]:
    """All of one feature."""
    return Request("GET", f"/features/{_in_path(feature_id)}", Feature.model_validate)


def analyze(text: str | None, *, messages: Messages | None, options: Mapping[str, Any]) -> Request[Analysis]:
    """What a text or a chat evokes."""
    about = {"text": text, "messages": None if messages is None else list(messages), **options}
    return Request("POST", "/analyze", Analysis.model_validate, _without_none(about))


def presets() -> Request[list[Preset]]:
    """All presets."""
    return Request("GET", "/presets", lambda answer: [Preset.model_validate(p) for p in answer["data"]])


def save_preset(preset: Preset | Mapping[str, Any], *, version: int | None, user: str | None) -> Request[Preset]:
    """Create a preset or replace it."""
    body = preset.model_dump(mode="json", exclude_unset=True) if isinstance(preset, Preset) else dict(preset)
    match = {} if version is None else {"If-Match": f'"{version}"'}
    path = f"/presets/{_in_path(str(body.get('id', '')))}"
    return Request("PUT", path, Preset.model_validate, body, _without_none({"user": user}), match)


def suggest(wish: str, *, model: str | None, limit: int) -> Request[Suggestion]:
    """Sliders for a wish."""
    about = {"wish": wish, "model": model, "limit": limit}
    return Request("POST", "/steering/suggest", Suggestion.model_validate, _without_none(about))


def jobs(*, limit: int) -> Request[Page[Job]]:
    """A page of jobs."""
    return Request("GET", "/jobs", Page[Job].model_validate, params={"limit": limit})


def job(job_id: str) -> Request[Job]:
    """One job."""
    return Request("GET", f"/jobs/{_in_path(job_id)}", Job.model_validate)


def start(kind: str, config: Mapping[str, Any], *, idempotency_key: str | None) -> Request[Job]:
    """A new job."""
    about = {"type": kind, "config": dict(config), "idempotency_key": idempotency_key}
    return Request("POST", "/jobs", Job.model_validate, _without_none(about))


def cancel(job_id: str) -> Request[Job]:
    """A job that is to end."""
    return Request("POST", f"/jobs/{_in_path(job_id)}/cancel", Job.model_validate)


def events(job: Job | str, headers: Mapping[str, str]) -> Request[None]:
    """What happens in a job."""
    job_id = job if isinstance(job, str) else job.id
    return Request("GET", f"/jobs/{_in_path(job_id)}/events", lambda _: None, headers=headers)


def limits() -> Request[Limits]:
    """What the server is and allows."""
    return Request("GET", "/limits", Limits.model_validate)


def place(request_id: str) -> Request[Place]:
    """Where a reply stands that waits."""
    return Request("GET", f"/queue/{_in_path(request_id)}", Place.model_validate)


def model() -> Request[str]:
    """The id of the model that is served."""
    return Request("GET", "/models", lambda answer: str(answer["data"][0]["id"]))


def _without_none(values: Mapping[str, Any]) -> Raw:
    return {k: v for k, v in values.items() if v is not None}


def _in_path(name: str) -> str:
    return quote(name, safe="/@")
