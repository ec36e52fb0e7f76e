"""Asynchronous client. `requests` builds each request and parses its response; this module sends them."""

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
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


class AsyncTiller:
    """A Tiller server at one address, used as a context manager. Every method raises TillerError."""

    def __init__(self, base_url: str, *, key: str | None = None, **options: Any) -> None:  # noqa: ANN401
        """The address may end in `/v1` or not; `options` are those of `httpx.AsyncClient`."""
        with translate_network_settings():
            self._http = httpx.AsyncClient(**requests.options(base_url, key, options))
        self._headers: dict[str, str] = {}

    def sending(self, **headers: str) -> "AsyncTiller":
        """The same client with more headers on every request; both share connections, which the first one closes."""
        other = copy.copy(self)
        other._headers = {**self._headers, **headers}
        return other

    async def __aenter__(self) -> "AsyncTiller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def chat(
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
        return await self._request(call)

    async def stream(
        self,
        *,
        model: str,
        messages: Messages,
        steering: Steering | None = None,
        seed: int | None = None,
        **sampling: Any,  # noqa: ANN401 - any field of a chat
    ) -> AsyncGenerator[Chunk, None]:
        """Yield a reply piece by piece; closing the generator ends the reply."""
        call = requests.chat(
            model=model, messages=messages, steering=steering, seed=seed, stream=True, sampling=sampling
        )
        async with self._open_stream(call) as all_sent:
            async for sent in all_sent:
                if sent.data == DONE:
                    return
                yield chunk_of(sent)

    async def compare(
        self,
        messages: Messages,
        variants: Sequence[Mapping[str, Any]],
        *,
        model: str,
        seed: int | None = None,
        **sampling: Any,  # noqa: ANN401 - any field of a chat
    ) -> Comparison:
        """Say the same messages once for each variant, `{"name": …, "steering": …}`, with one seed."""
        return await self._request(requests.compare(messages, variants, model=model, seed=seed, sampling=sampling))

    def features(self, q: str = "", *, mode: str = "text", **filters: Any) -> AsyncIterator[Feature]:  # noqa: ANN401
        """Find features by words, `meaning`, what a `prompt` evokes or `id`; all of them, page by page."""
        return self._pages(requests.features(q, mode=mode, filters=filters))

    async def feature(self, feature_id: str) -> Feature:
        """All that is known of one feature."""
        return await self._request(requests.feature(feature_id))

    async def analyze(self, text: str | None = None, *, messages: Messages | None = None, **options: Any) -> Analysis:  # noqa: ANN401
        """Which features a text or a chat evokes."""
        return await self._request(requests.analyze(text, messages=messages, options=options))

    async def presets(self) -> list[Preset]:
        """The presets that come with the model and those that were saved."""
        return await self._request(requests.presets())

    async def save_preset(
        self, preset: Preset | Mapping[str, Any], *, version: int | None = None, user: str | None = None
    ) -> Preset:
        """Create or replace a preset; with `version`, only if nobody has changed it since."""
        return await self._request(requests.save_preset(preset, version=version, user=user))

    async def suggest(self, wish: str, *, model: str | None = None, limit: int = 3) -> Suggestion:
        """Sliders for a wish; the suggestion's `steering` is what a chat takes."""
        return await self._request(requests.suggest(wish, model=model, limit=limit))

    def jobs(self, *, limit: int = 100) -> AsyncIterator[Job]:
        """The jobs, the newest first; `limit` is how many are asked for at a time."""
        return self._pages(requests.jobs(limit=limit))

    async def job(self, job_id: str) -> Job:
        """One job, as it is now."""
        return await self._request(requests.job(job_id))

    async def start(self, kind: str, config: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Begin a job; the same key twice is the same job."""
        return await self._request(requests.start(kind, config, idempotency_key=idempotency_key))

    async def cancel(self, job_id: str) -> Job:
        """Have a job end."""
        return await self._request(requests.cancel(job_id))

    async def follow(self, job: Job | str) -> AsyncGenerator[Event, None]:
        """Yield what happens in a job until it has ended, each event once, also when the connection breaks."""
        followed = Followed()
        while True:
            try:
                async with self._open_stream(requests.events(job, followed.headers)) as all_sent:
                    async for sent in all_sent:
                        yield followed.take(sent)
                return
            except TillerError as error:
                await asyncio.sleep(followed.pause(error))

    async def limits(self) -> Limits:
        """What the server is and allows."""
        return await self._request(requests.limits())

    async def place(self, request_id: str) -> Place:
        """Queue position of the request with this `X-Request-Id`; 404 once it has begun."""
        return await self._request(requests.place(request_id))

    async def model(self) -> str:
        """The id of the model that is served."""
        return await self._request(requests.model())

    async def _request(self, call: Request[T]) -> T:
        with translate_errors():
            answer = await self._http.request(**call.with_headers(self._headers))
        return call.parse(answer)

    async def _pages(self, call: Request[Page[T]]) -> AsyncIterator[T]:
        page = await self._request(call)
        while True:
            for item in page.data:
                yield item
            if page.next_cursor is None:
                return
            page = await self._request(call.after(page.next_cursor))

    @asynccontextmanager
    async def _open_stream(self, call: Request[Any]) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
        with translate_errors():
            async with self._http.stream(**call.with_headers(self._headers)) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise from_response(answer)
                yield EventSource(answer).aiter_sse()
