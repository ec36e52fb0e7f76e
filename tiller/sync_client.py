"""Synchronous client. `requests` builds each request and parses its response; this module sends them."""

# Generated from async_client.py by tools/unasync.py; change that file.
import copy
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from httpx_sse import EventSource, ServerSentEvent

from tiller import requests
from tiller.errors import TillerError, from_response, translate_errors, translate_network_settings
from tiller.models import (
    Analysis,
    Chunk,
    Comparison,
    Event,
    Feature,
    Job,
    Limits,
    Page,
    Place,
    Preset,
    Reply,
    Suggestion,
)
from tiller.requests import Messages, Request, Steering
from tiller.sse import DONE, Followed, chunk_of

T = TypeVar("T")


class Tiller:
    """A Tiller server at one address, used as a context manager. Every method raises TillerError."""

    def __init__(self, base_url: str, *, key: str | None = None, **options: Any) -> None:  # noqa: ANN401
        """The address may end in `/v1` or not; `options` are those of `httpx.Client`."""
        with translate_network_settings():
            self._http = httpx.Client(**requests.options(base_url, key, options))
        self._headers: dict[str, str] = {}

    def sending(self, **headers: str) -> "Tiller":
        """The same client with more headers on every request; both share connections, which the first one closes."""
        other = copy.copy(self)
        other._headers = {**self._headers, **headers}
        return other

    def __enter__(self) -> "Tiller":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def chat(
        self,
        *,
        model: str,
        messages: Messages,
        steering: Steering | None = None,
        seed: int | None = None,
        **sampling: Any,  # noqa: ANN401 - any field of a chat
    ) -> Reply:
        """Ask for a reply, and wait until all of it is said."""
        call = requests.chat(model=model, messages=messages, steering=steering, seed=seed, sampling=sampling)
        return self._request(call)

    def stream(
        self,
        *,
        model: str,
        messages: Messages,
        steering: Steering | None = None,
        seed: int | None = None,
        **sampling: Any,  # noqa: ANN401 - any field of a chat
    ) -> Generator[Chunk, None, None]:
        """Yield a reply piece by piece; closing the generator ends the reply."""
        call = requests.chat(
            model=model, messages=messages, steering=steering, seed=seed, stream=True, sampling=sampling
        )
        with self._open_stream(call) as all_sent:
            for sent in all_sent:
                if sent.data == DONE:
                    return
                yield chunk_of(sent)

    def compare(
        self,
        messages: Messages,
        variants: Sequence[Mapping[str, Any]],
        *,
        model: str,
        seed: int | None = None,
        **sampling: Any,  # noqa: ANN401 - any field of a chat
    ) -> Comparison:
        """Say the same messages once for each variant, `{"name": …, "steering": …}`, with one seed."""
        return self._request(requests.compare(messages, variants, model=model, seed=seed, sampling=sampling))

    def features(self, q: str = "", *, mode: str = "text", **filters: Any) -> Iterator[Feature]:  # noqa: ANN401
        """Find features by words, `meaning`, what a `prompt` evokes or `id`; all of them, page by page."""
        return self._pages(requests.features(q, mode=mode, filters=filters))

    def feature(self, feature_id: str) -> Feature:
        """All that is known of one feature."""
        return self._request(requests.feature(feature_id))

    def analyze(self, text: str | None = None, *, messages: Messages | None = None, **options: Any) -> Analysis:  # noqa: ANN401
        """Which features a text or a chat evokes."""
        return self._request(requests.analyze(text, messages=messages, options=options))

    def presets(self) -> list[Preset]:
        """The presets that come with the model and those that were saved."""
        return self._request(requests.presets())

    def save_preset(
        self, preset: Preset | Mapping[str, Any], *, version: int | None = None, user: str | None = None
    ) -> Preset:
        """Create or replace a preset; with `version`, only if nobody has changed it since."""
        return self._request(requests.save_preset(preset, version=version, user=user))

    def suggest(self, wish: str, *, model: str | None = None, limit: int = 3) -> Suggestion:
        """Sliders for a wish; the suggestion's `steering` is what a chat takes."""
        return self._request(requests.suggest(wish, model=model, limit=limit))

    def jobs(self, *, limit: int = 100) -> Iterator[Job]:
        """The jobs, the newest first; `limit` is how many are asked for at a time."""
        return self._pages(requests.jobs(limit=limit))

    def job(self, job_id: str) -> Job:
        """One job, as it is now."""
        return self._request(requests.job(job_id))

    def start(self, kind: str, config: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Begin a job; the same key twice is the same job."""
        return self._request(requests.start(kind, config, idempotency_key=idempotency_key))

    def cancel(self, job_id: str) -> Job:
        """Have a job end."""
        return self._request(requests.cancel(job_id))

    def follow(self, job: Job | str) -> Generator[Event, None, None]:
        """Yield what happens in a job until it has ended, each event once, also when the connection breaks."""
        followed = Followed()
        while True:
            try:
                with self._open_stream(requests.events(job, followed.headers)) as all_sent:
                    for sent in all_sent:
                        yield followed.take(sent)
                return
            except TillerError as error:
                time.sleep(followed.pause(error))

    def limits(self) -> Limits:
        """What the server is and allows."""
        return self._request(requests.limits())

    def place(self, request_id: str) -> Place:
        """Queue position of the request with this `X-Request-Id`; 404 once it has begun."""
        return self._request(requests.place(request_id))

    def model(self) -> str:
        """The id of the model that is served."""
        return self._request(requests.model())

    def _request(self, call: Request[T]) -> T:
        with translate_errors():
            answer = self._http.request(**call.with_headers(self._headers))
        return call.parse(answer)

    def _pages(self, call: Request[Page[T]]) -> Iterator[T]:
        page = self._request(call)
        while True:
            for item in page.data:
                yield item
            if page.next_cursor is None:
                return
            page = self._request(call.after(page.next_cursor))

    @contextmanager
    def _open_stream(self, call: Request[Any]) -> Iterator[Iterator[ServerSentEvent]]:
        with translate_errors():
            with self._http.stream(**call.with_headers(self._headers)) as answer:
                if not answer.is_success:
                    answer.read()
                    raise from_response(answer)
                yield EventSource(answer).iter_sse()
