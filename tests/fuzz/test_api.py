"""Fuzzing of all routes: never a 5xx, never a timeout; every error has the same shape."""

import json
import random
import time
from urllib.parse import quote

import httpx
import pytest

from server.api.app import create_app
from server.api.openapi_examples import EXAMPLES
from server.settings import Settings
from tests.fuzz.mutations import HOSTILE, LONGEST, as_json, broken, changed, seeds

LETTERS = "abz019/-_@.%:~+ \x00\n\u00fc\U0001f600"
SCHEMA = create_app(Settings(), lambda: None).openapi()  # type: ignore[arg-type]
ROUTES = sorted(
    (method.upper(), path, body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2])
    for path, methods in SCHEMA["paths"].items()
    for method, about in methods.items()
    if "$ref" in (body := about.get("requestBody", {"content": {}}))["content"].get("application/json", {}).get("schema", {})
)  # fmt: skip
READ = sorted(path for path, methods in SCHEMA["paths"].items() if "get" in methods and "events" not in path)
OFTEN = {"ChatRequest": 2, "Preset": 2, "Export": 2, "PresetBundle": 2}


def example(name):
    """A valid body on the small bundle, with fewer tokens than it would take by itself."""
    body = json.loads(json.dumps(EXAMPLES[name]).replace("smollm2/1684", "small/1").replace("smollm2", "small"))
    if name in ("ChatRequest", "CompareRequest", "CompletionRequest"):
        body["max_tokens"] = 2
    return body


def filled(path, draw):
    """An address with names in it that are right, or nearly."""
    for name in ("preset_id", "feature_id", "job_id", "share_id", "revision", "key_id", "name", "model_id"):
        right = {"feature_id": "small/1", "revision": "r1", "preset_id": "my-space", "model_id": "small@bridge"}
        odd = "".join(draw.choices(LETTERS, k=draw.randrange(1, 12)))
        value = right.get(name, "x") if draw.random() < 0.5 else odd
        for form in (f"{{{name}}}", f"{{{name}:path}}"):
            path = path.replace(form, quote(value, safe="/"))
    return path


def check(answer: httpx.Response, what: object, began: float) -> int:
    """Answered or refused, in time and in one shape; the status."""
    assert answer.status_code < 500, (what, answer.text)
    assert time.monotonic() - began < LONGEST, what
    if answer.status_code >= 400 and answer.request.url.path.startswith("/v1"):
        error = answer.json()["error"]
        assert {"message", "type", "param", "code"} <= error.keys(), what
        assert error["message"] and error["code"], what
    return answer.status_code


def test_every_route_with_a_body_has_an_example():
    assert len(ROUTES) >= 18
    assert {name for *_, name in ROUTES} <= EXAMPLES.keys()


@pytest.mark.parametrize(("method", "path", "name"), ROUTES, ids=lambda x: x if "/" in x else None)
def test_a_body_that_is_almost_right_is_answered_or_refused(http, method, path, name):
    statuses = []
    for n, draw in seeds(f"{method}{path}"):
        body = changed(example(name), draw) if n else example(name)
        content = as_json(body).encode("utf-8", "surrogatepass")
        if n % 5 == 4:
            content = broken(content, draw)
        where, began = filled(path, draw), time.monotonic()
        headers = {"Content-Type": "application/json"}
        answer = http.request(method, where, content=content, headers=headers)
        statuses.append(check(answer, (method, where, content[:2000]), began))
    assert any(s >= 400 for s in statuses), "nothing that was sent was wrong: the test tries too little"


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b'{"messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
                                     b'"' + b"\\" * 99_999, b"1" * 100_000, b"", b"\xff\xfe{}", b"null", b"NaN"], ids=range(9))  # fmt: skip
def test_a_body_that_is_rubbish_is_refused_on_every_route(http, content):
    for method, path, _ in ROUTES:
        began, where = time.monotonic(), filled(path, random.Random(1))
        answer = http.request(method, where, content=content, headers={"Content-Type": "application/json"})
        check(answer, (method, where, content[:40]), began)
        assert answer.status_code >= 400 or path.startswith("/v1/saes"), where


def test_a_path_or_a_query_that_is_almost_right_is_answered_or_refused(http):
    statuses = set()
    for n, draw in seeds("reads"):
        for path in READ:
            names = [p["name"] for p in SCHEMA["paths"][path]["get"].get("parameters", []) if p["in"] == "query"]
            chosen = draw.sample(names, min(len(names), 3))
            values = [str(draw.choice(HOSTILE))[:2000].encode("utf-8", "replace").decode() for _ in chosen]
            query = "&".join(f"{name}={quote(value)}" for name, value in zip(chosen, values, strict=True))
            where, began = f"{filled(path, draw)}?{query}", time.monotonic()
            statuses.add(check(http.get(where), (n, where), began))
    assert {200, 400, 404} <= statuses


def test_headers_that_are_almost_right_are_answered_or_refused(http):
    names = ("Authorization", "X-Request-Id", "If-Match", "Content-Type", "Accept", "Idempotency-Key", "Content-Length")
    statuses = set()
    for _, draw in seeds("headers"):
        value = "".join(draw.choices("ab\"'*;=,/%0 \u00fc", k=draw.randrange(40))).strip().encode("latin-1", "replace")
        name, began = draw.choice(names[:-1]), time.monotonic()
        answer = http.put("/v1/presets/my-space", json=example("Preset"), headers={name: value})
        statuses.add(check(answer, (name, value), began))
    assert statuses & {200, 201}, "no header was harmless"
    assert statuses & {400, 401, 412}, "and none was wrong"


def test_afterwards_the_server_answers_as_ever(http):
    chat = example("ChatRequest") | {"steering": None}
    assert http.post("/v1/chat/completions", json=chat).status_code == 200
    assert http.get("/health").json()["status"] == "ok"
