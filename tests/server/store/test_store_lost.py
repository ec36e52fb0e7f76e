"""Loss of Redis while serving: chat continues where possible, other routes return errors, and all recovers."""

import httpx
import pytest

from server.runtime import trainer_process
from server.settings import Settings
from tests.support.fake_jobs import go_on
from tests.support.live_server import serving
from tests.support.redis_server import running
from tests.support.waiting import until

KINDS = ("count=tests.support.fake_jobs:JOB",)
HELLO = [{"role": "user", "content": "hello there"}]
PLAIN = {"model": "small", "messages": HELLO, "max_tokens": 4}
STEERED = PLAIN | {"steering": {"features": [{"id": "small/1", "strength": 0.5}]}}
MINE = {"id": "mine", "name": "Mine", "steering": {"features": [{"id": "small/1", "strength": 0.5}]}}
VOTE = {"user": "ada", "kind": "thumb", "up": True, "steering": {"features": [{"id": "small/1", "strength": 0.5}]}}
NEEDS_IT = (
    ("POST", "/v1/chat/completions", PLAIN | {"model": "small@mine"}),
    ("POST", "/v1/chat/completions", PLAIN | {"model": "small@mine", "stream": True}),
    ("POST", "/v1/chat/completions", STEERED | {"user": "ada", "steering": {"preset": "mine", "personal": True}}),
    ("POST", "/v1/presets", MINE | {"id": "other"}),
    ("PUT", "/v1/presets/mine", MINE),
    ("DELETE", "/v1/presets/mine", None),
    ("GET", "/v1/presets", None),
    ("GET", "/v1/models", None),
    ("POST", "/v1/feedback", VOTE),
    ("GET", "/v1/feedback?user=ada", None),
    ("PUT", "/v1/training/consent", {"user": "ada", "consent": False}),
    ("GET", "/v1/vectors?user=ada", None),
    ("PATCH", "/v1/features/small/1", {"label": "lost"}),
    ("GET", "/v1/export?user=ada", None),
    ("POST", "/v1/saes/r1/activate", None),
    ("GET", "/v1/jobs", None),
    ("POST", "/v1/jobs", {"type": "count"}),
)


@pytest.fixture
def redis_server(tmp_path):
    (tmp_path / "redis").mkdir()
    with running(tmp_path / "redis", sync=True) as found:
        yield found


@pytest.fixture
def http(bundle, tmp_path, redis_server):
    with (
        serving(bundle, tmp_path, redis_url=redis_server.url, job_kinds=KINDS) as (address, _),
        httpx.Client(base_url=address) as client,
    ):
        yield client


def ask(http, body):
    return http.post("/v1/chat/completions", json=body)


def test_what_needs_the_store_is_told_so_and_the_rest_goes_on(http, redis_server):
    assert http.post("/v1/presets", json=MINE).status_code == 201
    assert http.put("/v1/training/consent", json={"user": "ada", "consent": True}).status_code == 200
    health = http.get("/health").json()
    assert (health["store"], health["store_error"], health["single_process"]) == ("redis", None, False)

    redis_server.stop()
    for body in (PLAIN, STEERED, PLAIN | {"user": "ada"}, PLAIN | {"stream": True}):
        assert ask(http, body).status_code == 200, body
    for path in ("/v1/features", "/v1/features/small/1", "/v1/saes", "/metrics"):
        assert http.get(path).status_code == 200, path
    for method, path, body in NEEDS_IT:
        answer = http.request(method, path, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (503, "store_unavailable"), (path, answer.text)
        assert f"Redis at 127.0.0.1:{redis_server.port} cannot be used" in error["message"]
        assert int(answer.headers["retry-after"]) >= 1
    health = http.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert "cannot be used" in health.json()["store_error"]
    assert "cannot be used" in http.get("/v1/limits").json()["server"]["store_error"]

    redis_server.start()
    until(lambda: http.get("/health").json()["store_error"] is None)
    assert ask(http, PLAIN | {"model": "small@mine"}).json()["steering"]["preset"] == "mine"
    for method, path, body in NEEDS_IT:
        assert http.request(method, path, json=body).status_code < 300 or path == "/v1/presets/mine", path
    assert http.get("/v1/training/consent", params={"user": "ada"}).json()["consent"] is False


def test_a_redis_that_says_nothing_makes_health_neither_slow_nor_bad(http, redis_server):
    http.get("/health")
    with redis_server.silent():
        answer = http.get("/health")
        # its own limit of a second, and not the one of whoever asks Redis
        assert (answer.status_code, answer.json()["store_error"]) == (200, "the store has not answered within 1 s")
        assert ask(http, PLAIN).status_code == 200
    until(lambda: http.get("/health").json()["store_error"] is None)


def test_who_follows_a_job_goes_on_following(http, redis_server):
    job = http.post("/v1/jobs", json={"type": "count"}).json()["id"]
    with http.stream("GET", f"/v1/jobs/{job}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "id: 1"
        redis_server.stop()
        assert next(line for line in lines if line.startswith(":")) == ": the store is unavailable"
        redis_server.start()
        assert http.post(f"/v1/jobs/{job}/cancel").status_code == 202
        states = [line for line in lines if line.startswith("data:")]  # it ends by itself
    assert all("queued" in line for line in states)


def test_a_job_that_runs_goes_on_and_is_told_when_redis_is_back(http, redis_server, tmp_path):
    found = Settings(data_dir=tmp_path, redis_url=redis_server.url, job_kinds=KINDS)
    job = http.post("/v1/jobs", json={"type": "count", "config": {"steps": 4, "holds": 2}}).json()["id"]
    with trainer_process.run_trainer_process(found):
        until(lambda: http.get(f"/v1/jobs/{job}").json()["metrics"].get("counted", 0) >= 2)
        redis_server.stop()
        go_on(tmp_path / "jobs" / job)
        until(lambda: (tmp_path / "jobs" / job / "counted").stat().st_size == 4)
        redis_server.start()
        until(lambda: http.get(f"/v1/jobs/{job}").json()["state"] == "succeeded")
    assert http.get(f"/v1/jobs/{job}").json()["attempts"] == 1


def test_without_its_redis_a_server_does_not_begin(bundle, tmp_path, redis_server):
    from tests.server.cli.test_main import run

    redis_server.stop()
    place = {"TILLER_BUNDLE": str(bundle), "TILLER_DATA_DIR": str(tmp_path), "TILLER_REDIS_URL": redis_server.url}
    for words in (["serve", "--no-browser", "--port", "0"], ["presets"], ["jobs", "ls"], ["sae", "rollback"]):
        result = run(*words, **place)
        assert result.returncode == 1, words
        assert f"Redis at 127.0.0.1:{redis_server.port} cannot be used" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
