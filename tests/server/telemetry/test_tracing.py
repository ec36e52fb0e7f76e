"""Traces: spans of a request with their durations, linked to the caller's trace, without any user's text."""

import sys

import httpx
import pytest

from server.telemetry import tracing
from tests.support.live_server import serving
from tests.support.waiting import until

memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
CANARY = "xylophone-canary"
CHAT = {"model": "small@bridge", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 4, "seed": 1}
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def spans():
    """What is recorded while the test runs."""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    exporter = memory.InMemorySpanExporter()
    tracing.export_to(SimpleSpanProcessor(exporter))
    yield exporter.get_finished_spans
    tracing.stop()


@pytest.fixture
def http(bundle, tmp_path, spans):
    with serving(bundle, tmp_path) as (address, _), httpx.Client(base_url=address) as client:
        yield client


def under(found, parent):
    return {s.name: s for s in found if s.parent and s.parent.span_id == parent.context.span_id}


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_a_request_its_policy_and_an_engine_that_queues_reads_and_speaks(http, spans, stream):
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-Id": "mine"}
    assert http.post("/v1/chat/completions", json=CHAT | {"stream": stream}, headers=headers).status_code == 200
    until(lambda: any(s.name.startswith("POST") for s in spans()))
    found = spans()
    request = next(s for s in found if s.name == "POST /v1/chat/completions")
    assert f"{request.context.trace_id:032x}" == TRACE
    assert {f"{s.context.trace_id:032x}" for s in found} == {TRACE}
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["tiller.request_id"] == "mine"
    assert {"policy", "engine"} <= under(found, request).keys()
    engine = under(found, request)["engine"]
    assert engine.attributes["tiller.tokens"] == 4
    parts = under(found, engine)
    assert {"queue", "prefill", "decode"} == parts.keys()
    assert parts["queue"].end_time == parts["prefill"].start_time
    assert parts["prefill"].end_time == parts["decode"].start_time
    assert engine.start_time <= parts["queue"].start_time
    assert parts["decode"].end_time <= engine.end_time


def test_no_span_holds_what_somebody_wrote(http, spans, monkeypatch):
    http.post("/v1/chat/completions", json=CHAT | {"user": CANARY})
    http.post("/v1/chat/completions", json=CHAT | {"model": CANARY})
    http.get(f"/v1/presets/{CANARY}?x={CANARY}", headers={"traceparent": CANARY})
    http.post("/v1/chat/completions", content=CANARY)
    until(lambda: sum(s.name.startswith(("POST", "GET")) for s in spans()) == 4)
    assert CANARY not in "".join(s.to_json() for s in spans())


def test_switched_off_nothing_is_made(bundle, tmp_path):
    tracing.start(None)
    assert tracing._tracer is None
    generation = tracing.GenerationSpan()
    generation.piece(1, 0.0)
    generation.end("stop")
    with tracing.span("policy"):
        pass


def test_a_server_without_the_sdk_goes_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    tracing.start("http://localhost:4318")
    assert tracing._tracer is None
