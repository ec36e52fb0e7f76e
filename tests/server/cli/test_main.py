"""`tiller` as real processes, with real ports and real signals."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest

from server.cli.main import COMMANDS, load_command
from tests.support.waiting import until


def tiller(*arguments, **environment):
    return [sys.executable, "-m", "server", *arguments], {**os.environ, "COLUMNS": "100", **environment}


def run(*arguments, **environment):
    command, env = tiller(*arguments, **environment)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


@pytest.fixture
def served(bundle, tmp_path):
    """`tiller serve` in a process of its own, ready; its settings come from the environment."""
    port, said = free_port(), []
    command, env = tiller(
        "serve",
        "--no-browser",
        TILLER_PORT=str(port),
        TILLER_DATA_DIR=str(tmp_path / "data"),
        TILLER_BUNDLE=str(bundle),
    )
    with (tmp_path / "log").open("w") as log:  # a pipe that nobody reads would be full one day, and hold up its writer
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    threading.Thread(target=lambda: said.extend(process.stdout), daemon=True).start()
    until(lambda: any("try" in line for line in said) or process.poll() is not None)
    yield process, port, said
    if process.poll() is None:
        process.kill()
    process.wait(120)
    process.stdout.close()


def test_serve_prints_page_api_and_a_curl_line_that_works_and_ends_on_sigterm(served):
    process, port, said = served
    text = "".join(said)
    assert f"http://127.0.0.1:{port}/" in text
    assert f"http://127.0.0.1:{port}/v1" in text
    curl = text[text.index("curl") :].strip()
    answer = subprocess.run(
        ["bash", "-c", curl.replace("curl", "curl -s", 1)], capture_output=True, text=True, timeout=600
    )
    assert '"chat.completion"' in answer.stdout
    assert (
        "<title>Tiller</title>" in httpx.get(f"http://127.0.0.1:{port}/").text
        or httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0


def test_sigterm_under_an_open_stream_tells_the_client_and_ends_without_a_traceback(served, tmp_path):
    process, port, _ = served
    body = {
        "model": "small",
        "messages": [{"role": "user", "content": "hi"}],
        "ignore_eos": True,
        "n": 8,
        "stream": True,
    }
    body |= {"temperature": 1, "max_tokens": 490}
    lines: list[str] = []

    def talk():  # longer than the server waits: one reply after the other until it has gone
        while process.poll() is None:
            try:
                with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as answer:
                    lines.extend(line for line in answer.iter_lines() if line)
            except httpx.HTTPError:
                return

    talkers = [threading.Thread(target=talk, daemon=True) for _ in range(12)]
    for talker in talkers:
        talker.start()
    until(lambda: lines)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    for talker in talkers:
        talker.join(120)
    assert "Traceback" not in (tmp_path / "log").read_text()
    last_words = [line for line in lines if line.startswith('data: {"error"')]
    assert last_words
    assert all("shutting down" in line for line in last_words)


def test_taken_port_gets_one_sentence(bundle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", "--no-browser", "--port", str(taken.getsockname()[1]), "--bundle", str(bundle))
    assert result.returncode == 1
    assert "is taken" in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bogus",), "no such option: --bogus"),
        (("--engine", "abacus"), "'transformers' or 'vllm'"),
        (("--engine", "vllm"), "vLLM is not installed"),
    ],
)
def test_serve_refuses_what_it_does_not_know(bundle, tmp_path, arguments, words):
    result = run(
        "serve", "--no-browser", "--port", "0", "--bundle", str(bundle), "--data-dir", str(tmp_path), *arguments
    )
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_chat_prints_both_replies_side_by_side(bundle, tmp_path):
    result = run(
        "chat",
        "hello",
        "--preset",
        "bridge",
        "--max-tokens",
        "8",
        "--bundle",
        str(bundle),
        TILLER_DATA_DIR=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert "Default" in result.stdout
    assert "bridge" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "nobody"], "no preset 'nobody'"),
        (["--feature", "small/999=1"], "no feature"),
        (["--feature", "small/1=much"], "is not a dose"),
    ],
)
def test_bad_choice_is_one_sentence(bundle, tmp_path, arguments, words):
    result = run("chat", "hello", *arguments, "--bundle", str(bundle), TILLER_DATA_DIR=str(tmp_path))
    assert result.returncode == 1
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_presets_and_features_are_listed(bundle, tmp_path):
    assert "bridge" in run("presets", "--bundle", str(bundle), "--data-dir", str(tmp_path)).stdout
    listed = run("features", "bridges", "--bundle", str(bundle)).stdout
    assert "small/1" in listed
    assert "1 of 1" in listed


def test_doctor_finds_what_is_wrong(bundle, tmp_path):
    fine = run("doctor", "--bundle", str(bundle), "--port", str(free_port()), "--data-dir", str(tmp_path))
    assert fine.returncode == 0, fine.stdout
    assert fine.stdout.count("ok") >= 6
    wrong = run(
        "doctor", "--bundle", str(tmp_path / "nothing"), "--port", str(free_port()), "--data-dir", str(tmp_path)
    )
    assert wrong.returncode == 1
    assert "problem" in wrong.stdout


def test_every_command_has_help():
    for command in ("serve", "chat", "presets", "features", "doctor"):
        assert "--bundle" in run(command, "--help").stdout


def test_the_version_is_told_with_the_commit():
    done = subprocess.run([sys.executable, "-m", "server", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"tiller \d+\.\d+\.\d+(\.\w+)?( [0-9a-f]{12}\+?)?\n", done.stdout), done.stdout


def test_help_comes_without_waiting_for_torch():
    """A process that reads its command, and the trainer that waits for days, have none of the heavy packages in memory."""
    heavy = "'torch', 'transformers', 'fastapi', 'gradio', 'numpy'"
    code = f"import sys, server.cli.main, server.cli.trainer, server.runtime.trainer, server.jobs.runner; print([p for p in ({heavy}) if p in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_says_what_each_commands_own_help_says(name):
    command = load_command(name)
    assert command.name == name
    assert COMMANDS[name].hidden or (command.help or "").strip().split("\n")[0] == COMMANDS[name].help


def test_the_list_of_commands_loads_neither_torch_nor_a_web_framework():
    code = (
        "import sys; from server.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'fastapi', 'transformers', 'gradio'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("serve", "sae", "calibrate"))


@pytest.mark.parametrize("command", ["describe", "label"])
def test_text_is_one_flag_everywhere_and_its_former_name_is_hidden_but_taken(command, tmp_path):
    help_ = run(command, "--help").stdout
    assert "--text" in help_
    assert "--corpus" not in help_
    missing = str(tmp_path / "there-is-none.txt")
    for flag in ("--text", "--corpus"):
        done = run(command, flag, missing)
        assert done.returncode == 1
        assert "there-is-none.txt" in done.stderr.replace("\n", "")


def test_calibrate_takes_the_text_that_it_no_longer_needs(tmp_path):
    help_ = run("calibrate", "--help").stdout
    assert "--text" not in help_
    for flag in ("--text", "--corpus"):
        done = run("calibrate", "harbor/99999", flag, str(tmp_path / "text.txt"))
        assert done.returncode == 1
        assert "no feature 'harbor/99999'" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    "command", [["chat", b"Hi \xff there"], ["features", b"\xff"], [b"--\xff"], ["serve", "--bundle", b"\xff"]]
)
def test_an_argument_that_is_no_text_gets_one_sentence(command):
    done = subprocess.run([sys.executable, "-m", "server", *command], capture_output=True, text=True)
    assert done.returncode == 2
    assert "is not UTF-8; write it in UTF-8" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("variable", ["TILLER_MODEL", "TILLER_HOST", "TILLER_DATA_DIR"])
def test_a_variable_that_is_no_text_gets_one_sentence(variable):
    environment = {**os.environb, variable.encode(): b"a\xffb"}
    done = subprocess.run([sys.executable, "-m", "server", "serve"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is not UTF-8; write it in UTF-8" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "network",
    [{"ALL_PROXY": "socks5://127.0.0.1:9"}, {"HTTPS_PROXY": "gopher://nowhere"}, {"SSL_CERT_FILE": "/missing"}],
)
def test_the_page_is_imported_whatever_proxy_the_environment_names(network):
    code = f"import os, ui.page; print(*(os.environ[n] for n in {list(network)!r}))"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **network}, capture_output=True, text=True)
    assert done.stdout.split() == list(network.values()), done.stderr
