"""Code shown on the page: all four variants run unchanged and return the same reply."""

import json
import os
import subprocess
import sys

import httpx
import pytest

from tests.support.paths import ROOT
from tests.ui.test_page import pick

pytestmark = pytest.mark.browser

QUESTION = """It's "red", isn't it? \\n ${HOME} `id` – ä\nand long"""


@pytest.fixture
def snippets(page):
    """The four, of a steered request with a question that no shell and no language takes for its own."""
    pick(page)
    page.fill("#message textarea", QUESTION)
    page.click("#code")
    page.wait_for_selector("dialog[open]")
    found = page.locator("dialog pre").all_text_contents()
    page.keyboard.press("Escape")
    return found


def printed(command):
    """What a command prints, without the end of its last line."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().removesuffix("\n")


def said(completion):
    return completion["choices"][0]["message"]["content"]


def test_all_four_say_the_same(snippets, address):
    curl, openai, client, request = snippets
    body = json.loads(request)
    assert body["messages"][-1]["content"] == QUESTION
    assert body["steering"]["features"]

    plain = httpx.post(f"{address}/v1/chat/completions", json=body).json()
    assert plain["steering"]["applied"]
    curled = json.loads(printed(["sh", "-c", curl]))
    assert curled["steering"] == plain["steering"]
    replies = [said(curled), *(printed([sys.executable, "-c", code]) for code in (openai, client))]
    assert replies == [said(plain)] * 3
    unsteered = {k: v for k, v in body.items() if k != "steering"}
    assert said(httpx.post(f"{address}/v1/chat/completions", json=unsteered).json()) != said(plain)
