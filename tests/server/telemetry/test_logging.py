"""Log lines: one format, the request id in each line of a request, and never a user's text."""

import io
import json
import logging
import logging.config
import re
import subprocess
import sys
import threading

import httpx
import pytest
import structlog

from server.telemetry import logging as logs
from tests.server.cli.test_main import free_port, tiller
from tests.support.live_server import serving
from tests.support.waiting import until

CANARY = "xylophone-canary"
SAID = [{"role": "user", "content": CANARY}]
CHAT = {"model": "small", "messages": SAID, "max_tokens": 4, "seed": 1}


@pytest.fixture
def lines():
    """What is logged as JSON while the test runs; the log is as before afterwards."""
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers, root.level, structlog.get_config()
    logs.configure_logging("json", "debug", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers, root.level = before[:2]
    structlog.configure(**before[2])


@pytest.fixture
def own(bundle, tmp_path, lines):
    """A server whose lines are caught, and a client that knows its address."""
    with serving(bundle, tmp_path) as (address, app), httpx.Client(base_url=address) as client:
        yield client, app.state.served_model, lines


def of(lines, answer):
    """The line of a request; its answer may be there a moment earlier."""
    name = answer.headers["x-request-id"]
    until(lambda: any(x["event"] == "request" and x.get("request_id") == name for x in lines()))
    return next(x for x in lines() if x["event"] == "request" and x.get("request_id") == name)


def test_a_request_is_told_by_method_route_status_seconds_tokens_and_id(own):
    client, _, lines = own
    line = of(lines, client.post("/v1/chat/completions", json=CHAT, headers={"X-Request-Id": "mine-1"}))
    assert (line["request_id"], line["method"], line["route"]) == ("mine-1", "POST", "/v1/chat/completions")
    assert (line["status"], line["tokens"], line["level"]) == (200, 4, "info")
    assert line["prompt_tokens"] > 0
    assert 0 < line["seconds"] < 30
    assert "T" in line["timestamp"]


def test_a_stream_is_told_at_its_end_with_all_its_tokens(own):
    client, _, lines = own
    answer = client.post("/v1/chat/completions", json=CHAT | {"stream": True, "n": 2, "ignore_eos": True})
    assert of(lines, answer)["tokens"] == 8


def test_a_path_is_told_by_its_route_without_ids_and_query(own):
    client, _, lines = own
    answer = client.get(f"/v1/features/small/1?user={CANARY}")
    assert of(lines, answer)["route"] == "/v1/features/{feature_id:path}"
    assert of(lines, client.get(f"/v1/{CANARY}"))["route"] == "/v1/{path:path}"
    assert CANARY not in str(lines())


@pytest.mark.parametrize("name", [f"{CANARY} {CANARY}", "a" * 65, "a\tb", "ü"])
def test_a_request_id_that_is_more_than_a_name_is_not_taken(own, name):
    client, _, lines = own
    answer = client.get("/v1/models", headers={"X-Request-Id": name.encode()})
    assert re.fullmatch(r"req_[0-9a-f]{32}", answer.headers["x-request-id"])
    assert CANARY not in str(lines())


def test_what_is_asked_all_the_time_is_below_info_unless_it_fails(own):
    client, *_, lines = own
    assert of(lines, client.get("/livez"))["level"] == "debug"
    assert of(lines, client.get("/v1/nothing"))["level"] == "info"


def test_no_line_holds_what_somebody_wrote_or_was_answered(own, monkeypatch):
    client, engine, lines = own[0], own[1].engine, own[2]
    secret = {"Authorization": f"Bearer {CANARY}", "X-Api-Key": CANARY}
    said = client.post("/v1/chat/completions", json=CHAT | {"temperature": 0}).json()["choices"][0]["message"][
        "content"
    ]
    for path, body in [
        ("/v1/chat/completions", CHAT | {"stream": True, "user": CANARY}),
        ("/v1/chat/completions", CHAT | {"model": CANARY}),
        ("/v1/chat/completions", CHAT | {"temperature": CANARY}),
        ("/v1/chat/completions", CHAT | {CANARY: 1}),
        ("/v1/chat/completions", CHAT | {"max_tokens": 10**9}),
        ("/v1/chat/completions", CHAT | {"steering": {"features": [{"id": f"small/{CANARY}", "strength": 1}]}}),
        ("/v1/completions", {"model": "small", "prompt": CANARY, "max_tokens": 2}),
        ("/v1/analyze", {"text": CANARY}),
        ("/v1/steering/suggest", {"text": CANARY}),
        (f"/v1/presets/{CANARY}", {"id": CANARY}),
    ]:
        answer = client.post(path, json=body, headers=secret)
        of(lines, answer)
    for rubbish in (CANARY.encode(), b'{"messages": "' + CANARY.encode(), b"\xff" + CANARY.encode()):
        of(lines, client.post("/v1/chat/completions", content=rubbish, headers=secret))

    async def bug(*_):
        try:
            raise ValueError(CANARY)
        except ValueError as error:
            raise KeyError(CANARY, said) from error

    monkeypatch.setattr(engine, "logprobs_unsteered", bug)
    crash = client.post("/v1/chat/completions", json=CHAT | {"steering": {"return": ["coherence"]}})
    assert crash.status_code == 500
    of(lines, crash)
    told = next(x for x in lines() if x["event"] == "unhandled exception")
    assert told["request_id"] == crash.headers["x-request-id"]
    assert told["route"] == "/v1/chat/completions"
    assert "builtins.KeyError" in told["exception"]
    assert "builtins.ValueError" in told["exception"]
    assert "in bug" in told["exception"]
    assert CANARY not in str(lines())
    assert not said.strip() or said not in str(lines())


def test_every_line_within_a_request_has_its_id(own, monkeypatch):
    client, tiller, lines = own
    real = tiller.engine.encode_chat

    def speaking(messages, **more):
        structlog.get_logger("server.test").warning("ours")
        logging.getLogger("somebody.else").warning("theirs")
        return real(messages, **more)

    monkeypatch.setattr(tiller.engine, "encode_chat", speaking)
    name = client.post("/v1/chat/completions", json=CHAT).headers["x-request-id"]
    assert {x["request_id"] for x in lines() if x["event"] in ("ours", "theirs")} == {name}


def test_others_lines_have_the_same_format_and_their_exceptions_no_words(lines):
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    logging.getLogger("asyncio").error(f"Task exception was never retrieved\nfuture: <Task {CANARY}>")
    logging.getLogger("vllm.engine").info("below what others may say")
    first, second = lines()
    assert (first["logger"], first["level"]) == ("uvicorn.error", "error")
    assert "builtins.ValueError" in first["exception"]
    assert second["event"] == "Task exception was never retrieved"
    assert CANARY not in str([first, second])


def test_what_went_wrong_with_this_machine_is_told_with_its_words(lines):
    try:
        raise OSError(28, "No space left on device")
    except OSError as error:
        structlog.get_logger("server.x").error("lost", exc_info=error)
    assert "No space left on device" in lines()[0]["exception"]


@pytest.mark.parametrize("message", ["WorkerProc failed to start.", "EngineCore failed to start."])
def test_the_reason_why_vllm_cannot_start_is_logged_in_full(lines, message):
    try:
        raise ValueError("decrease `--gpu-memory-utilization`")
    except ValueError:
        logging.getLogger("vllm.v1.engine.core").exception(message)
    assert "decrease `--gpu-memory-utilization`" in lines()[0]["exception"]


def test_vllm_is_told_the_same_format(capsys):
    logging.config.dictConfig(logs.vllm_logging_config("json"))
    logger = logging.getLogger("vllm")
    try:
        logger.getChild("core").info("ready")
    finally:
        logger.handlers.clear()
        logger.propagate = True
    assert json.loads(capsys.readouterr().err)["event"] == "ready"


def test_a_server_without_a_terminal_writes_json_and_nothing_else(bundle, tmp_path):
    port, said, problems = free_port(), [], []
    words, env = tiller(
        "serve", "--no-browser", "--port", str(port), "--bundle", str(bundle), "--data-dir", str(tmp_path)
    )
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for heard, out in ((said, process.stdout), (problems, process.stderr)):
        threading.Thread(target=lambda heard=heard, out=out: heard.extend(out), daemon=True).start()
    try:
        until(lambda: any("try" in line for line in said) or process.poll() is not None)
        assert httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=CHAT).status_code == 200
        httpx.get(f"http://127.0.0.1:{port}/health")
        httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", content=CANARY)
        until(lambda: len(problems) >= 2)
    finally:
        process.terminate()
        process.wait(120)
        process.stdout.close()
        process.stderr.close()
    assert [json.loads(line)["status"] for line in problems] == [200, 400]
    assert CANARY not in "".join(problems)
    assert sys.executable not in "".join(problems)
