"""Tracing middleware: one OpenTelemetry span for each request."""

from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.telemetry import logging, tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class TracingMiddleware:
    """Makes a span per request under /v1, as a child of the caller's trace if the request names one.

    The application has it only if tracing is on when it is created.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if (tracer := tracing.tracer()) is None or scope["type"] != "http" or not scope["path"].startswith("/v1"):
            await self.app(scope, receive, send)
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        context = extract({"traceparent": Headers(scope=scope).get("traceparent", "")})
        with tracer.start_as_current_span(
            scope["method"],
            context=context,
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as made:
            logging.bind_request_fields(trace_id=f"{made.get_span_context().trace_id:032x}")

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    made.set_attribute("http.response.status_code", message["status"])
                await send(message)

            try:
                await self.app(scope, receive, watched)
            finally:
                _set_attributes(made, scope)


def _set_attributes(made: "Span", scope: Scope) -> None:
    route = logging.route_of(scope)
    made.update_name(f"{scope['method']} {route}")
    told: dict[str, Any] = {"http.request.method": scope["method"], "http.route": route}
    made.set_attributes(told | {"tiller.request_id": scope["state"]["request_id"]})
