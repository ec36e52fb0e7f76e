"""Prometheus metrics: counters of the server's events, and no prompt, key or feature among the labels."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

ASK = {"model": "small", "messages": [{"role": "user", "content": "secret words"}], "max_tokens": 6, "seed": 3}
STEERING = {"features": [{"id": "small/1", "strength": 0.5}], "return": ["applied", "coherence"]}


def figures(http):
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = [s for family in text_string_to_metric_families(answer.text) for s in family.samples]
    return {(s.name, *sorted(s.labels.items())): s.value for s in samples}


def rise(http, act, name, **labels):
    key = (name, *sorted(labels.items()))
    before = figures(http).get(key, 0)
    act()
    return figures(http).get(key, 0) - before


def chat(http, **more):
    return http.post("/v1/chat/completions", json={**ASK, **more})


@pytest.mark.parametrize("stream", [False, True])
def test_replies_are_counted_steered_or_not(http, stream):
    plain = {"finish_reason": "length", "steered": "false"}
    ended = {"ignore_eos": True, "stream": stream}
    assert rise(http, lambda: chat(http, **ended), "tiller_request_success_total", **plain) == 1
    steered = {**plain, "steered": "true"}
    assert rise(http, lambda: chat(http, steering=STEERING, **ended), "tiller_request_success_total", **steered) == 1


def test_tokens_and_times_are_noted(http):
    ask = lambda: chat(http, ignore_eos=True)  # noqa: E731
    assert rise(http, ask, "tiller_generation_tokens_total") == 6
    assert rise(http, ask, "tiller_time_to_first_token_seconds_count") == 1
    assert rise(http, ask, "tiller_e2e_request_latency_seconds_count", steered="false") == 1
    assert rise(http, ask, "tiller_prompt_tokens_total") > 0


def test_steered_requests_are_counted_by_mode_and_scope(http):
    act = lambda: chat(http, steering=STEERING)  # noqa: E731
    assert rise(http, act, "tiller_steering_requests_total", mode="add", scope="assistant") == 1
    assert rise(http, act, "tiller_steering_features_per_request_count") == 1


def test_errors_are_counted_by_code_and_routes_by_their_pattern(http):
    act = lambda: http.get("/v1/features/small/99999")  # noqa: E731
    assert rise(http, act, "tiller_request_errors_total", code="feature_not_found") == 1
    route = {"method": "GET", "handler": "/v1/features/{feature_id:path}", "status": "404"}
    assert rise(http, act, "http_requests_total", **route) == 1


def test_what_is_of_now_is_asked_for_now(http):
    found = figures(http)
    assert found[("tiller_requests_running",)] == 0
    assert found[("tiller_sae_active_info", ("sae", "r1"))] == 1
    assert [k for k in found if k[0] == "tiller_build_info"]


def test_nothing_that_was_written_or_named_is_a_label(http):
    chat(http, steering=STEERING, user="ada")
    http.get("/v1/features", params={"q": "secret words"})
    text = http.get("/metrics").text
    assert not [word for word in ("secret", "small/1", "ada", "bridges") if word in text]
