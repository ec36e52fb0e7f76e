"""The trainer's process stays small for days: what it does, jobs and looks, is done in others, which end when it does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.server.trained import WORDS, chats, live, place, settings

__all__ = ["place"]


@pytest.fixture
def trainer(place):
    """One that looks every second, at text that people gave."""
    (place / "data").mkdir()
    live(place, chats(place / "x.jsonl", WORDS, 250, seed=3))
    found = settings(place, look_seconds=1)
    words = [sys.executable, "-m", "server", "trainer", "--settings", found.model_dump_json()]
    child = subprocess.Popen(words, stdin=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def until(true, seconds=120):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def looking(trainer):
    """The process of a look, if there is one now."""
    for line in Path(f"/proc/{trainer.pid}/task").glob("*/children"):
        for pid in line.read_text().split():
            if b"\0look\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    return None


def there(pid):
    try:
        return b"\0look\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc: run it on Linux")
def test_the_trainer_looks_again_and_again_without_ever_loading_torch(trainer, place):
    file = place / "data/trainer/made/drift.jsonl"
    rows = until(lambda: len(lines := file.read_text().splitlines() if file.exists() else []) > 1 and lines)
    assert all(json.loads(row)["live"]["explained_variance"] > 0 for row in rows)
    assert "libtorch" not in Path(f"/proc/{trainer.pid}/maps").read_text()
    assert "libtorch" in until(
        lambda: (p := looking(trainer)) and (m := Path(f"/proc/{p}/maps").read_text()) and "libtorch" in m and m
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc: run it on Linux")
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_look_ends_with_its_trainer(trainer, kind):
    pid = until(lambda: looking(trainer))
    os.kill(trainer.pid, kind)
    trainer.wait(20)
    until(lambda: not there(pid), 20)
