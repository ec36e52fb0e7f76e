"""Gateway middleware: request id, Host check on loopback, body size limit, and 503 while loading or draining."""

import re
import time
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import DRAINING, LOADING, to_api_error
from server.api.middleware.head import answer_head
from server.api.middleware.security_headers import add_security_headers
from server.errors import ApiError
from server.settings import LOOPBACK, Settings
from server.telemetry import metrics
from server.telemetry.logging import route_of

log = structlog.get_logger(__name__)
IMPORT_PATHS = {"/v1/import", "/v1/presets/import"}
"""Paths that accept a whole document, with a higher size limit."""


class GatewayMiddleware:
    """Runs for every request: request id, Host check on loopback, size limit, and 503 while loading."""

    def __init__(self, app: ASGIApp, *, state: Any, settings: Settings) -> None:  # noqa: ANN401 - starlette's State
        self.app, self.state, self.settings = app, state, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            await answer_head(self, scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = scope["state"]["request_id"]
        begun, came = False, time.perf_counter()

        async def tagged(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                answered = MutableHeaders(scope=message)
                answered["x-request-id"] = request_id
                add_security_headers(answered, scope["path"])
                _count_request(scope, message["status"], time.perf_counter() - came)
            await send(message)

        if refusal := self._check(scope, headers):
            await JSONResponse(refusal.body, refusal.status)(scope, receive, tagged)
        elif self.state.draining and scope["path"].startswith("/v1"):
            await JSONResponse(DRAINING, 503, {"Retry-After": "5", "Connection": "close"})(scope, receive, tagged)
        elif self.state.served_model is None and scope["path"].startswith("/v1"):
            await JSONResponse(LOADING, 503, {"Retry-After": "2"})(scope, receive, tagged)
        else:
            limited = (
                _limit_body(receive, self._body_limit(scope["path"])) if scope["path"].startswith("/v1") else receive
            )
            try:
                await self.app(scope, limited, tagged)
            except Exception as error:
                # Passed on, the header would make uvicorn close a connection that the client uses
                # for its next request.
                if begun:
                    raise
                log.error("unhandled exception", route=route_of(scope), exc_info=error)
                answer = to_api_error(error)
                await JSONResponse(answer.body, answer.status, answer.headers)(scope, receive, tagged)

    def _check(self, scope: Scope, headers: Headers) -> ApiError | None:
        # DNS rebinding: another site's page whose own name resolves to 127.0.0.1 must not reach a
        # server without keys.
        host = re.sub(r":\d+$", "", headers.get("host", "").lower()).strip("[]")
        if self.settings.host in LOOPBACK and host and host not in LOOPBACK:
            return ApiError(
                421, f"this server is only reachable from its own machine, not as {host!r}", code="wrong_host"
            )
        length = headers.get("content-length", "0")
        most = self._body_limit(scope["path"])
        if scope["path"].startswith("/v1") and length.isdecimal() and int(length) > most:
            return _too_large(most)
        return None

    def _body_limit(self, path: str) -> int:
        return self.settings.max_import if path in IMPORT_PATHS else self.settings.max_body


def _count_request(scope: Scope, status: int, seconds: float) -> None:
    """Count by route and not by path: ids would each make a metric. The page's own paths are one route."""
    path = getattr(scope.get("route"), "path", "" if scope["path"].startswith("/v1") else "page")
    metrics.http.labels(scope["method"], path, str(status)).inc()
    metrics.http_seconds.labels(path).observe(seconds)


def _limit_body(receive: Receive, most: int) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise _too_large(most)
        return message

    return counted


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most} bytes; send less", code="body_too_large")
