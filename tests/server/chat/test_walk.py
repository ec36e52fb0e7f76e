"""The walk of a request: how many of our own modules one streamed chat enters."""

import sys
import threading
from pathlib import Path

import httpx

from tests.support.live_server import serving
from tests.support.paths import ROOT

PACKAGES = tuple(str(ROOT / name) for name in ("server", "steering"))
MOST = 52
"""What it is now; it may only fall."""


def test_a_streamed_chat_enters_few_modules(bundle, tmp_path):
    entered, on = set(), threading.Event()

    def profile(frame, event, _):
        if event == "call" and on.is_set() and frame.f_code.co_filename.startswith(PACKAGES):
            entered.add(frame.f_code.co_filename)

    threading.setprofile(profile)  # of threads that are started from now on: the server's and the engine's
    try:
        with serving(bundle, tmp_path) as (address, _):
            body = {"model": "small@bridge", "stream": True, "max_tokens": 6, "seed": 1}
            body |= {"messages": [{"role": "user", "content": "hello there"}]}
            httpx.post(f"{address}/v1/chat/completions", json=body)  # what is done once is done
            on.set()
            answer = httpx.post(f"{address}/v1/chat/completions", json=body)
            on.clear()
    finally:
        threading.setprofile(None)
    assert "[DONE]" in answer.text
    names = sorted(Path(f).relative_to(ROOT).as_posix() for f in entered)
    sys.stdout.write(f"{len(names)} modules: {', '.join(names)}\n")
    assert 10 < len(names) <= MOST, names
