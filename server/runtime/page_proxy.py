"""Page proxy: forwards requests to the page's process over a local socket."""

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
"""Hop-by-hop headers."""


class PageProxy:
    """Streams requests and responses unchanged; a client's disconnect is passed on."""

    def __init__(self, socket: Path) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=httpx.Limits(max_connections=None))
        self._http = httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(None, connect=5), trust_env=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request; other protocols are ignored."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        asked = self._http.build_request(
            request.method,
            "http://page/",
            headers=_passed(request.headers.raw),
            extensions={"target": scope["raw_path"] + query},  # httpx would normalize dot segments
            content=await request.body() or None,
        )
        try:
            answer = await self._http.send(asked, stream=True)
        except httpx.TransportError:
            sorry = PlainTextResponse("The page is not there now; try again in a moment.", 503, {"Retry-After": "2"})
            await sorry(scope, receive, send)
            return
        response = StreamingResponse(_chunks(answer), answer.status_code)
        response.raw_headers = _passed(answer.headers.raw)
        await response(scope, receive, send)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


async def _chunks(answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


def _passed(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in headers if name.lower() not in HOP]
