"""The public API as the page's Python calls it. Knows HTTP and server-sent events; nothing of components."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx


class ApiProblem(Exception):
    """The API refused or broke; the message is a sentence for a person."""


class Api:
    """One API, by the address that ends in `/v1`."""

    def __init__(self, base: str) -> None:
        self.base = base.rstrip("/")
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(10, read=300))

    async def model(self) -> str:
        """The id of the model that is served."""
        return (await self._get("/models"))["data"][0]["id"]

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of a chat completion. Raises ApiProblem. Closing the iterator ends the generation."""
        try:
            async with self._client.stream("POST", f"{self.base}/chat/completions", json=body | {"stream": True}) as answer:
                if answer.status_code != 200:
                    raise ApiProblem(_message(await answer.aread()))
                async for line in answer.aiter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        chunk = json.loads(line[6:])
                        if "error" in chunk:
                            raise ApiProblem(chunk["error"]["message"])
                        yield chunk
        except httpx.HTTPError as error:
            raise ApiProblem(f"the server cannot be reached ({type(error).__name__}); is it still running?") from error

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            answer = await self._client.get(self.base + path)
        except httpx.HTTPError as error:
            raise ApiProblem(f"the server cannot be reached ({type(error).__name__})") from error
        if answer.status_code != 200:
            raise ApiProblem(_message(answer.content))
        return answer.json()


def _message(body: bytes) -> str:
    try:
        return json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return "the server gave no reason"
