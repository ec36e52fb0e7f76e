"""Figures for Prometheus: how many, how fast, how steered. Knows no route and no model; no prompt, key or feature is a label."""

import time
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server.engines.base import TextPiece
from server.telemetry import logging, tracing

SOON = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BETWEEN = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1)
WHOLE = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

REGISTRY = CollectorRegistry()
"""Of this process; the libraries' own figures are not in it."""

succeeded = Counter(
    "tiller_request_success", "Replies that were said to their end", ["finish_reason", "steered"], registry=REGISTRY
)
failed = Counter("tiller_request_errors", "Answers other than 2xx under /v1, by code", ["code"], registry=REGISTRY)
first_token = Histogram(
    "tiller_time_to_first_token_seconds", "From the engine's taking a request to its first token",
    buckets=SOON, registry=REGISTRY,
)  # fmt: skip
between = Histogram(
    "tiller_inter_token_latency_seconds", "Between two tokens of a reply", buckets=BETWEEN, registry=REGISTRY
)
end_to_end = Histogram(
    "tiller_e2e_request_latency_seconds", "From the engine's taking a request to the reply's end",
    ["steered"], buckets=WHOLE, registry=REGISTRY,
)  # fmt: skip
asked_tokens = Counter("tiller_prompt_tokens", "Tokens of prompts", registry=REGISTRY)
said_tokens = Counter("tiller_generation_tokens", "Tokens of replies", registry=REGISTRY)
features = Histogram(
    "tiller_steering_features_per_request", "Features that a request steers",
    buckets=(0, 1, 2, 4, 8, 16, 24, 32), registry=REGISTRY,
)  # fmt: skip
steered = Counter(
    "tiller_steering_requests", "Steered requests, by each mode that they use", ["mode", "scope"], registry=REGISTRY
)
incoherent = Counter(
    "tiller_incoherent_outputs", "Replies that were judged strained or broken", ["verdict"], registry=REGISTRY
)
limited = Counter("tiller_rate_limited", "Requests that a key's limit turned away", ["limit"], registry=REGISTRY)
refused = Counter("tiller_policy_refused", "Steerings that the policy refused, by rule", ["rule"], registry=REGISTRY)
running = Gauge("tiller_requests_running", "Sequences in the engine", registry=REGISTRY)
waiting = Gauge("tiller_requests_waiting", "Sequences that wait for room", registry=REGISTRY)
build = Gauge("tiller_build_info", "What answers; always 1", ["version", "engine", "model"], registry=REGISTRY)
active = Gauge("tiller_sae_active_info", "Which revision is served; always 1", ["sae"], registry=REGISTRY)
jobs = Gauge("tiller_jobs", "Jobs that are known", ["type", "state"], registry=REGISTRY)
loss = Gauge("tiller_train_loss", "Loss of the training that runs, if one does", registry=REGISTRY)
store = Gauge("tiller_store_up", "Whether the store can be used", ["store"], registry=REGISTRY)
http = Counter("http_requests", "Answers, by route", ["method", "handler", "status"], registry=REGISTRY)
http_seconds = Histogram(
    "http_request_duration_seconds", "To an answer's first byte", ["handler"], buckets=WHOLE, registry=REGISTRY
)


def count_request(modes: Iterable[str], scope: str, *, prompt: int, n_features: int) -> None:
    """A request was accepted."""
    features.observe(n_features)
    asked_tokens.inc(prompt)
    logging.count(prompt_tokens=prompt)
    for mode in {*modes}:
        steered.labels(mode, scope).inc()


class GenerationMeter:
    """Times and tokens of one choice: a context around its generation, told of every piece."""

    def __init__(self, *, is_steered: bool) -> None:
        self.tokens = 0
        self._began = self._last = time.perf_counter()
        self._steered, self._reason, self._span = str(is_steered).lower(), None, tracing.GenerationSpan()

    def __enter__(self) -> "GenerationMeter":
        return self

    def __exit__(self, *_: object) -> None:
        self._span.end(self._reason)

    def observe(self, piece: TextPiece) -> None:
        """Count one piece that has just arrived."""
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
    """A reply was judged."""
    if verdict != "ok":
        incoherent.labels(verdict).inc()


def set_gauges(gauge: Gauge, rows: Sequence[tuple[tuple[str, ...], float]]) -> None:
    """A gauge as it is now: what is in no row is gone."""
    gauge.clear()
    for labels, value in rows:
        gauge.labels(*labels).set(value)
