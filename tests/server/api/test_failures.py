"""Failures: the engine is busy, fails, or is still loading; each has its answer, and the server stays up."""

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import ExitStack

import httpx
import openai
import pytest
import structlog

from server.api.app import create_app
from server.engines.transformers import batch
from server.settings import Settings
from tests.server.cli.test_main import free_port, run, tiller
from tests.support.halted_engine import halted
from tests.support.live_server import serving
from tests.support.paths import ROOT
from tests.support.waiting import until

ASK = [{"role": "user", "content": "hello there"}]
LONG = {"model": "small", "messages": ASK, "max_tokens": 400, "ignore_eos": True, "temperature": 1.0}
SHORT = {"model": "small", "messages": ASK, "max_tokens": 2}
JUDGED = SHORT | {"steering": {"return": ["coherence"]}}


@pytest.fixture
def own(bundle, tmp_path):
    """A server of one's own, to break: one reply at a time, one waiting."""
    with serving(bundle, tmp_path, live=1, queue=1) as (address, app):
        yield f"{address}/v1", app.state.served_model


@pytest.fixture
def every_word(monkeypatch):
    """Each token is a piece of its own, however fast they come."""
    monkeypatch.setattr(batch, "SPEAK_EVERY", 0)


def holding(engine, **about):
    """Hold the engine, so that no reply ends before what a test waits for; whoever stops it lets go."""
    held = ExitStack()
    held.enter_context(halted(engine, **about))
    return held


def stop(engine, held):
    """Close an engine that is in the middle of a reply."""
    threading.Thread(target=lambda: asyncio.run(engine.close())).start()
    until(lambda: engine._closed)
    held.close()


def stop_when_running(engine, held, sequences):
    """Close an engine from another thread, once so many sequences run."""

    def wait_and_stop():
        until(lambda: engine.occupancy[0] == sequences)
        stop(engine, held)

    threading.Thread(target=wait_and_stop).start()


@pytest.mark.parametrize("stream", [True, False])
def test_full_queue_is_429_with_a_time_to_wait_and_frees_what_it_took(own, stream):
    address, tiller = own
    answer = httpx.post(f"{address}/chat/completions", json=LONG | {"n": 8, "stream": stream})
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(answer.headers["retry-after"]) >= 1
    assert httpx.post(f"{address}/chat/completions", json=SHORT).status_code == 200
    assert tiller.engine.occupancy == (0, 0)


def test_engine_that_stops_in_mid_stream_sends_an_error_and_no_done(own, every_word):
    address, tiller = own
    lines, held = [], holding(tiller.engine, after=200)
    with httpx.stream("POST", f"{address}/chat/completions", json=LONG | {"stream": True}) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if len(lines) == 5:
                stop(tiller.engine, held)
    last = [line for line in lines if line][-1]
    assert answer.status_code == 200
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_failed"
    assert "data: [DONE]" not in lines


def test_official_client_raises_on_an_error_in_mid_stream(own, every_word):
    address, tiller = own
    held = holding(tiller.engine, after=200)
    with (
        openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client,
        pytest.raises(openai.APIError) as caught,
    ):
        for i, _ in enumerate(
            client.chat.completions.create(
                model="small", messages=ASK, stream=True, max_tokens=400, extra_body={"ignore_eos": True}
            )
        ):
            if i == 3:
                stop(tiller.engine, held)
    assert caught.value.code == "engine_failed"


def test_engine_that_stops_in_mid_reply_is_a_500_that_asks_for_no_retry(own):
    address, tiller = own
    held = holding(tiller.engine)

    stop_when_running(tiller.engine, held, 1)
    answer = httpx.post(f"{address}/chat/completions", json=LONG)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "engine_failed"
    assert answer.headers["x-should-retry"] == "false"


def test_bug_is_a_500_without_details_and_the_next_request_works(http, tiller, monkeypatch):
    async def bug(*_):
        raise KeyError("a secret")

    monkeypatch.setattr(tiller.engine, "logprobs_unsteered", bug)
    with structlog.testing.capture_logs() as logged:
        for _ in range(10):  # on the same connection: it must not be closed under the next request
            answer = http.post("/v1/chat/completions", json=JUDGED)
            assert answer.status_code == 500
            assert answer.json()["error"]["code"] == "internal_error"
            assert "secret" not in answer.text
            assert answer.headers["x-request-id"].startswith("req_")
            assert http.post("/v1/chat/completions", json=SHORT).status_code == 200
    assert [type(entry["exc_info"]) for entry in logged if entry["event"] == "unhandled exception"] == [KeyError] * 10


async def test_until_the_model_is_loaded_the_answer_is_503(bundle, tmp_path):
    async def never():
        await asyncio.Event().wait()

    app = create_app(Settings(bundle=bundle, data_dir=tmp_path), never)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        for path in ("/health", "/v1/models"):
            answer = await client.get(path)
            assert answer.status_code == 503
            assert answer.json()["error"] == {
                "code": 503,
                "message": "Loading model",
                "type": "unavailable_error",
                "param": None,
            }
            assert answer.headers["x-request-id"]
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--no-browser", "--port", "0", "--bundle", "{tmp}/nothing"], "is not a bundle"),
        (
            ["serve", "--no-browser", "--port", "0", "--bundle", "{bundle}", "--data-dir", "{tmp}/file/x"],
            "choose another --data-dir",
        ),
        (["presets", "--bundle", "{bundle}", "--data-dir", "{tmp}/file/x"], "choose another --data-dir"),
        (["chat", "hello", "--bundle", "{bundle}", "--feature", "small/1=nan"], "finite"),
    ],
)
def test_command_that_cannot_run_says_so_in_one_sentence(bundle, tmp_path, arguments, words):
    (tmp_path / "file").write_text("")
    result = run(*[a.format(tmp=tmp_path, bundle=bundle) for a in arguments])
    assert result.returncode == 1
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr


LOGGED = """
import structlog
from server.telemetry import logging
logging.configure_command_logging()
def broken(message):
    raise KeyError("culprit")
try:
    broken("what a person " + "wrote")
except KeyError:
    structlog.get_logger().exception("it broke")
"""


def test_log_has_the_traceback_but_not_what_people_wrote():
    result = subprocess.run([sys.executable, "-c", LOGGED], capture_output=True, text=True, timeout=600)
    assert "it broke" in result.stderr
    assert "KeyError" in result.stderr
    assert "in broken" in result.stderr
    assert "culprit" not in result.stderr
    assert "what a person wrote" not in result.stderr + result.stdout


def test_a_server_whose_engine_has_ended_ends_and_says_why(bundle, tmp_path):
    port = free_port()
    _, env = tiller()
    script = ROOT / "tests/support/dying_engine.py"
    words = [sys.executable, str(script), "serve", "--no-browser", "--port", str(port)]
    words += ["--bundle", str(bundle), "--data-dir", str(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(words, env=env, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or "try" in (tmp_path / "log").read_text())
        answer = httpx.post(f"{address}/v1/chat/completions", json=LONG)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "engine_failed"
        assert process.wait(120) == 1
    finally:
        process.kill()
        process.wait(120)
    assert "the engine has ended: RuntimeError" in (tmp_path / "log").read_text().splitlines()[-1]
