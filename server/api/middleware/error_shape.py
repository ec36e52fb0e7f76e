"""Error-shape middleware: 404, 405 and other errors of the framework in OpenAI's format.

FastAPI, its static files and the mounted page have formats of their own; this middleware rewrites
them.
"""

import json
from collections.abc import Sequence
from typing import Any

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError
from server.telemetry import metrics

GRADIO_PREFIX = "/gradio_api/"
"""Routes of the page's own code, which reads Gradio's errors unchanged."""
RESHAPED_TYPES = ("application/json", "text/plain")
"""Content types of errors in other formats."""
KEPT_HEADERS = ("allow", "retry-after")


class ErrorShapeMiddleware:
    """Rewrites every error to one format; `routes` are those that define the methods of a path."""

    def __init__(self, app: ASGIApp, *, routes: Sequence[APIRoute]) -> None:
        self.app, self.routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"].startswith(GRADIO_PREFIX):
            await self.app(scope, receive, send)
            return
        asked = {"type": "http", "method": scope["method"], "path": scope["path"]}  # a mount changes the scope
        held: list[Message] = []

        async def shaped(message: Message) -> None:
            if not held and (message["type"] != "http.response.start" or message["status"] < 400):
                await send(message)
                return
            held.append(message)
            if message["type"] != "http.response.start" and not message.get("more_body"):
                if answer := self._reshape(asked, held):
                    await JSONResponse(answer.body, answer.status, answer.headers)(scope, receive, send)
                    return
                for each in held:
                    await send(each)

        await self.app(scope, receive, shaped)

    def _reshape(self, asked: Scope, held: Sequence[Message]) -> ApiError | None:
        """The same error in OpenAI's format; None if it is in it already."""
        start, *rest = held
        headers = Headers(raw=start["headers"])
        detail = _detail(b"".join(m.get("body", b"") for m in rest))
        if detail is None or not headers.get("content-type", "").startswith(RESHAPED_TYPES):
            return None
        kept = {name.title(): headers[name] for name in KEPT_HEADERS if name in headers}
        answer = self._routing_error(asked, start["status"], kept) or ApiError(
            start["status"], detail, code="http_error", headers=kept
        )
        metrics.failed.labels(answer.code).inc()
        return answer

    def _routing_error(self, asked: Scope, status: int, headers: dict[str, str]) -> ApiError | None:
        if status not in (404, 405):
            return None
        method, path = asked["method"], asked["path"]
        there = (r for r in self.routes if r.matches(asked)[0] is Match.PARTIAL)
        methods = {m for r in there for m in r.methods or ()} or {*headers.get("Allow", "").split(", ")} - {""}
        if takes := ", ".join(sorted(methods)):
            said = f"{path} allows {takes}, not {method}"
            return ApiError(405, said, code="method_not_supported", headers={"Allow": takes})
        return ApiError(404, f"{method} {path} not found; /docs lists the routes", code="not_found")


def _detail(body: bytes) -> str | None:
    """The message of an error in another format."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
    if isinstance(said, dict):
        return None if "error" in said else str(said.get("detail", said))
    return str(said)
