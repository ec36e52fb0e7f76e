"""Metrics for Prometheus: traffic, latency and steering; no prompt, key or feature is a label."""

import time
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.engines.base import TextPiece
from server.telemetry import logging, tracing

SOON = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BETWEEN = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1)
WHOLE = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

REGISTRY = CollectorRegistry()
"""Registry of this process, without the libraries' own metrics."""

succeeded = Counter("tiller_request_success", "Finished replies", ["finish_reason", "steered"], registry=REGISTRY)
failed = Counter("tiller_request_errors", "Responses other than 2xx under /v1, by code", ["code"], registry=REGISTRY)
first_token = Histogram(
    "tiller_time_to_first_token_seconds", "Time to the first token, from the request's submission to the engine",
    buckets=SOON, registry=REGISTRY,
)  # fmt: skip
between = Histogram(
    "tiller_inter_token_latency_seconds", "Time between two tokens of a reply", buckets=BETWEEN, registry=REGISTRY
)
end_to_end = Histogram(
    "tiller_e2e_request_latency_seconds", "Time to the end of the reply, from the request's submission to the engine",
    ["steered"], buckets=WHOLE, registry=REGISTRY,
)  # fmt: skip
asked_tokens = Counter("tiller_prompt_tokens", "Prompt tokens", registry=REGISTRY)
said_tokens = Counter("tiller_generation_tokens", "Generated tokens", registry=REGISTRY)
features = Histogram(
    "tiller_steering_features_per_request", "Number of features steered per request",
    buckets=(0, 1, 2, 4, 8, 16, 24, 32), registry=REGISTRY,
)  # fmt: skip
steered = Counter("tiller_steering_requests", "Steered requests, by mode", ["mode", "scope"], registry=REGISTRY)
incoherent = Counter("tiller_incoherent_outputs", "Replies judged strained or broken", ["verdict"], registry=REGISTRY)
limited = Counter("tiller_rate_limited", "Requests rejected by a key's rate limit", ["limit"], registry=REGISTRY)
refused = Counter("tiller_policy_refused", "Steerings refused by the policy, by rule", ["rule"], registry=REGISTRY)
running = Gauge("tiller_requests_running", "Running sequences", registry=REGISTRY)
waiting = Gauge("tiller_requests_waiting", "Waiting sequences", registry=REGISTRY)
build = Gauge("tiller_build_info", "What answers; always 1", ["version", "engine", "model"], registry=REGISTRY)
active = Gauge("tiller_sae_active_info", "Served revision, as a label; always 1", ["sae"], registry=REGISTRY)
jobs = Gauge("tiller_jobs", "Jobs, by state", ["type", "state"], registry=REGISTRY)
loss = Gauge("tiller_train_loss", "Loss of the running training job", registry=REGISTRY)
store = Gauge("tiller_store_up", "Whether the store is available", ["store"], registry=REGISTRY)
http = Counter("http_requests", "Answers, by route", ["method", "handler", "status"], registry=REGISTRY)
http_seconds = Histogram(
    "http_request_duration_seconds",
    "Time to the first byte of a response",
    ["handler"],
    buckets=WHOLE,
    registry=REGISTRY,
)


def count_request(modes: Iterable[str], scope: str, *, prompt: int, n_features: int) -> None:
    """A request was accepted."""
    features.observe(n_features)
    asked_tokens.inc(prompt)
    logging.count(prompt_tokens=prompt)
    for mode in {*modes}:
        steered.labels(mode, scope).inc()


class GenerationMeter:
    """Latency and tokens of one choice: a context around its generation that observes every piece."""

    def __init__(self, *, is_steered: bool) -> None:
        self.tokens = 0
        self._began = self._last = time.perf_counter()
        self._steered, self._reason, self._span = str(is_steered).lower(), None, tracing.GenerationSpan()

    def __enter__(self) -> "GenerationMeter":
        return self

    def __exit__(self, *_: object) -> None:
        self._span.end(self._reason)

    def observe(self, piece: TextPiece) -> None:
        """Count one new piece."""
        now, new, self._reason = time.perf_counter(), piece.tokens - self.tokens, piece.finish_reason
        self._span.piece(piece.tokens, piece.waited)
        if new and not self.tokens:
            first_token.observe(now - self._began)
        for _ in range(new if self.tokens else 0):
            between.observe((now - self._last) / new)
        said_tokens.inc(new)
        logging.count(tokens=new)
        self.tokens, self._last = piece.tokens, now
        if self._reason:
            succeeded.labels(self._reason, self._steered).inc()
            end_to_end.labels(self._steered).observe(now - self._began)


def count_coherence(verdict: str) -> None:
    """Count a coherence result."""
    if verdict != "ok":
        incoherent.labels(verdict).inc()


def set_gauges(gauge: Gauge, rows: Sequence[tuple[tuple[str, ...], float]]) -> None:
    """Set a gauge's current values; missing label values are removed."""
    gauge.clear()
    for labels, value in rows:
        gauge.labels(*labels).set(value)
