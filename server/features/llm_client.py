"""LLM client: asks a model behind an OpenAI-compatible API.

Only temporary errors are retried: 429 and 5xx. Redirects are not followed, since they would receive
the key.
"""

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from server.settings import LOOPBACK
from steering.errors import SteeringError

TRIES = 4
LONGEST_WAIT = 30.0


class LLMClient:
    """Sends several questions at a time. Close it at the end: it is an async context manager."""

    def __init__(
        self, url: str, model: str, key: str | None = None, *, at_once: int = 8, timeout: float = 120, wait: float = 1.0
    ) -> None:
        """`url` is the base, such as `https://host/v1`; `wait` is the delay before the first retry, in seconds.

        Raises SteeringError if the environment's network settings cannot be used.
        """
        self.model, self._wait = model, wait
        self._gate = asyncio.Semaphore(at_once)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        direct = urlsplit(url).hostname in LOOPBACK  # a model on this machine is not asked through a proxy
        try:
            self._http = httpx.AsyncClient(
                base_url=url.rstrip("/") + "/", headers=headers, timeout=timeout, trust_env=not direct
            )
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
            raise SteeringError(
                f"{url} cannot be reached with the environment's proxy or certificates: {error}"
            ) from error

    async def __aenter__(self) -> "LLMClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, system: str, question: str, *, max_tokens: int = 200) -> str:
        """One answer. Raises SteeringError with the endpoint's message."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
        async with self._gate:
            answer = await self._post(body)
        try:
            return str(answer.json()["choices"][0]["message"]["content"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise SteeringError(
                f"{self._http.base_url} does not answer in OpenAI's format: {answer.text[:200]!r}"
            ) from error

    async def _post(self, body: dict[str, object]) -> httpx.Response:
        attempt = 0
        while True:
            try:
                answer = await self._http.post("chat/completions", json=body)
            except httpx.HTTPError as error:
                raise SteeringError(
                    f"{self._http.base_url} cannot be reached: {str(error) or type(error).__name__}"
                ) from error
            if answer.is_success:
                return answer
            attempt += 1
            if attempt == TRIES or not (answer.status_code == 429 or answer.status_code >= 500):
                raise SteeringError(f"{self._http.base_url} answers {answer.status_code}: {answer.text[:200]}")
            await asyncio.sleep(_retry_after(answer, self._wait * 2 ** (attempt - 1)))


def numbers_in(answer: str) -> Sequence[int]:
    """The last list of integers in an answer. Raises ValueError if there is none."""
    start, end = answer.rfind("["), answer.rfind("]")
    if not 0 <= start < end:
        raise ValueError(f"no list of numbers in {answer[:80]!r}")
    return [int(part) for part in answer[start + 1 : end].replace(",", " ").split()]


def _retry_after(answer: httpx.Response, otherwise: float) -> float:
    asked = answer.headers.get("retry-after", "")
    return min(LONGEST_WAIT, float(asked) if asked.isdecimal() else otherwise)
