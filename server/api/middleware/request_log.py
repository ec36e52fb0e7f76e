"""Request log middleware: one line per request, with its id."""

import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from server.telemetry.logging import log, request_fields, route_of

REQUEST_ID_PATTERN = re.compile(r"[\w.:-]{1,64}", re.ASCII)
"""Request ids accepted from clients: plain names only."""
QUIET_ROUTES = {"page", "/health", "/livez", "/metrics"}
"""Routes that are polled, and not logged."""


class RequestLogMiddleware:
    """Outermost middleware: sets the request id, which every log line of the request has, and
    writes the request's line."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID_PATTERN.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        facts: dict[str, Any] = {"status": None}
        token, came = request_fields.set(facts), time.perf_counter()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                facts["status"] = message["status"]
            await send(message)

        with bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, watched)
            finally:
                request_fields.reset(token)
                _log_request(scope, facts, time.perf_counter() - came)


def _log_request(scope: Scope, facts: dict[str, Any], seconds: float) -> None:
    route, status = route_of(scope), facts["status"]
    quiet = route in QUIET_ROUTES and status is not None and status < 400
    told = {"method": scope["method"], "route": route, **facts, "seconds": round(seconds, 4)}
    (log.debug if quiet else log.info)("request", **told)
