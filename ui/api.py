"""The public API as the page's Python calls it. Knows HTTP and server-sent events; nothing of components."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx

Chunk = dict[str, Any]


class ApiProblem(Exception):
    """The API refused or broke; the message is a sentence for a person."""


class Api:
    """One API, by the address that ends in `/v1`."""

    def __init__(self, base: str) -> None:
        self.base = base.rstrip("/")
        # The server is this machine's own, whatever the environment says of proxies.
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(10, read=300), trust_env=False)

    async def model(self) -> str:
        """The id of the model that is served. Raises ApiProblem."""
        try:
            answer = await self._client.get(f"{self.base}/models")
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        if answer.status_code != 200:
            raise ApiProblem(_message(answer.content))
        return answer.json()["data"][0]["id"]

    async def stream(self, body: dict[str, Any]) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of a chat completion. Raises ApiProblem. Closing the generator ends the reply."""
        try:
            async with self._client.stream(
                "POST", f"{self.base}/chat/completions", json=body | {"stream": True}
            ) as answer:
                if answer.status_code != 200:
                    raise ApiProblem(_message(await answer.aread()))
                async for line in answer.aiter_lines():
                    if (chunk := _chunk(line)) is not None:
                        yield chunk
        except httpx.HTTPError as error:
            raise _unreachable(error) from error


def _chunk(line: str) -> Chunk | None:
    if not line.startswith("data: ") or line == "data: [DONE]":
        return None
    chunk = json.loads(line[6:])
    if "error" in chunk:
        raise ApiProblem(str(chunk["error"]["message"]))
    return chunk


def _unreachable(error: httpx.HTTPError) -> ApiProblem:
    return ApiProblem(f"the server cannot be reached ({type(error).__name__}); is it still running?")


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "the server gave no reason"
