"""Graceful shutdown: readiness fails at once, replies finish, new requests are refused, and it ends in time. Real
processes.
"""

import signal
import subprocess
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from tests.server.cli.test_main import free_port, tiller
from tests.support.waiting import until

LONG = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 490, "ignore_eos": True}
LONG |= {"stream": True, "n": 8, "temperature": 1}


@contextmanager
def served(bundle, place, **environment):
    """`tiller serve`, ready, and its address."""
    port, said = free_port(), []
    words, env = tiller("serve", "--no-browser", "--port", str(port), "--bundle", str(bundle), "--data-dir", str(place))
    with (place / "errors.log").open("w") as problems:
        process = subprocess.Popen(words, env=env | environment, stdout=subprocess.PIPE, stderr=problems, text=True)
    threading.Thread(target=lambda: said.extend(process.stdout), daemon=True).start()
    try:
        until(lambda: any("try" in line for line in said) or process.poll() is not None)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(120)
        process.stdout.close()


def talk(address, lines, body=LONG):
    """Have a stream's lines come in beside what one does."""

    def run():
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body) as answer:
            lines.extend(line for line in answer.iter_lines() if line)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(lambda: lines)
    return thread


def test_health_turns_at_once_new_requests_are_turned_away_and_the_running_one_ends(bundle, tmp_path):
    lines = []
    with (
        served(bundle, tmp_path, TILLER_DRAIN_SECONDS="600", TILLER_LIVE="1") as (process, address),
        httpx.Client(base_url=address) as http,
    ):
        assert http.get("/health").status_code == 200
        talking = talk(address, lines)
        process.send_signal(signal.SIGTERM)
        until(lambda: http.get("/health").status_code == 503)
        assert httpx.get(f"{address}/livez").status_code == 200  # a new connection
        refused = httpx.post(f"{address}/v1/chat/completions", json=LONG)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["message"] == "Shutting down"
        assert talking.is_alive()
        talking.join(120)
        assert lines[-1] == "data: [DONE]"
        assert process.wait(120) == 0
    assert "Traceback" not in (tmp_path / "errors.log").read_text()


def test_what_has_not_ended_in_time_is_told_and_a_second_signal_is_not_needed(bundle, tmp_path):
    lines = []
    with served(bundle, tmp_path, TILLER_DRAIN_SECONDS="0.5", TILLER_LIVE="1") as (process, address):
        talking = talk(address, lines)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        talking.join(120)
    assert "shutting down" in lines[-1]


def test_a_second_signal_waits_no_longer(bundle, tmp_path):
    with served(bundle, tmp_path, TILLER_DRAIN_SECONDS="600", TILLER_LIVE="1") as (process, address):
        lines = []
        talk(address, lines)
        process.send_signal(signal.SIGTERM)
        time.sleep(1.2)
        assert process.poll() is None or lines[-1] == "data: [DONE]"
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0


def test_with_nothing_to_do_it_is_gone_at_once(bundle, tmp_path):
    with served(bundle, tmp_path, TILLER_DRAIN_SECONDS="600") as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0  # and not after ten minutes


@pytest.mark.parametrize("streams", [0, 4])
def test_a_trainer_in_the_middle_of_a_job_ends_beside_the_replies(bundle, tmp_path, streams):
    kinds = '["count=tests.support.fake_jobs:JOB"]'
    more = {"TILLER_TRAINER": "true", "TILLER_JOB_KINDS": kinds, "TILLER_DRAIN_SECONDS": "2", "TILLER_LIVE": "2"}
    with served(bundle, tmp_path, **more) as (process, address):
        job = httpx.post(
            f"{address}/v1/jobs", json={"type": "count", "config": {"steps": 10_000, "seconds": 0.1}}
        ).json()["id"]
        until(lambda: httpx.get(f"{address}/v1/jobs/{job}").json()["state"] == "running")
        for _ in range(streams):
            talk(address, [])
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0  # and not after the quarter of an hour that the job would take
