"""Tracing: OpenTelemetry spans, if the SDK is installed and configured: request → policy, engine →
queue, prefill, decode.

Disabled by default, with the cost of one variable read. Spans contain no user text: only routes,
counts, states and times.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from server.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span, Tracer

log = structlog.get_logger(__name__)
_tracer: "Tracer | None" = None
_provider: "TracerProvider | None" = None


def start(endpoint: str | None) -> None:
    """Send spans to a collector from now on, `http://host:4318`; without an address, or without the
    SDK, tracing stays off."""
    if endpoint is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("otel_endpoint is set, but OpenTelemetry's SDK is not installed: pip install 'tiller[otel]'")
        return
    export_to(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")))


def export_to(processor: "SpanProcessor") -> None:
    """Send spans to a processor from now on."""
    global _tracer, _provider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    _provider = TracerProvider(resource=Resource.create({"service.name": "tiller", "service.version": VERSION}))
    _provider.add_span_processor(processor)
    _tracer = _provider.get_tracer("tiller", VERSION)


def stop() -> None:
    """Flush and stop."""
    global _tracer, _provider
    if _provider is not None:
        _provider.shutdown()
    _tracer = _provider = None


def tracer() -> "Tracer | None":
    """The tracer in use; None while tracing is off."""
    return _tracer


@contextmanager
def span(name: str, **attributes: str | int | float) -> Iterator[None]:
    """A child span of the current one."""
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ):
        yield


class GenerationSpan:
    """Span of a reply in the engine, built from its pieces."""

    def __init__(self) -> None:
        self._span: Span | None = _tracer.start_span("engine") if _tracer else None
        self._began, self._first, self._waited, self._tokens = time.time_ns(), 0, 0, 0

    def piece(self, tokens: int, waited: float) -> None:
        """Record the number of tokens so far, and the seconds before the engine began."""
        if self._span is None:
            return
        if tokens and not self._first:
            self._first, self._waited = time.time_ns(), int(waited * 1e9)
        self._tokens = tokens

    def end(self, reason: str | None) -> None:
        """End the span: the reply has ended, or its client has disconnected."""
        if self._span is None or _tracer is None:
            return
        from opentelemetry.trace import set_span_in_context

        now, within = time.time_ns(), set_span_in_context(self._span)
        first, seated = self._first or now, self._began + self._waited
        for name, start, stop in (
            ("queue", self._began, seated),
            ("prefill", seated, first),
            ("decode", first, now),
        ):
            if stop > start:
                _tracer.start_span(name, context=within, start_time=start).end(stop)
        self._span.set_attributes({"tiller.tokens": self._tokens, "tiller.finish_reason": reason or "left"})
        self._span.end(now)
