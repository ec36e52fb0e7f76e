"""Trainer process: memory stays small, since jobs and drift checks run in child processes, which end with it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from server.settings import child_environment
from tests.support.trained_sae import WORDS, chats, live, place, settings
from tests.support.waiting import until

__all__ = ["place"]


@pytest.fixture
def trainer(place):
    """One that looks every second, at text that people gave."""
    (place / "data").mkdir()
    live(place, chats(place / "x.jsonl", WORDS, 250, seed=3))
    found = settings(place, look_seconds=1)
    words = [sys.executable, "-m", "server", "trainer"]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, env=child_environment(found))
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def of(pid, file):
    """What /proc says of a process; nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return ""


def looking(trainer):
    """The process of a look, if there is one now."""
    children = [
        pid for file in Path(f"/proc/{trainer.pid}/task").glob("*/children") for pid in file.read_text().split()
    ]
    return next((int(pid) for pid in children if "\0look\0" in of(pid, "cmdline")), None)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc: run it on Linux")
def test_the_trainer_looks_again_and_again_without_ever_loading_torch(trainer, place):
    file = place / "data/trainer/made/drift.jsonl"
    row = until(lambda: file.exists() and file.read_text())
    assert json.loads(row.splitlines()[0])["live"]["explained_variance"] > 0
    until(lambda: "libtorch" in of(looking(trainer), "maps"))  # the next look has it
    assert "libtorch" not in of(trainer.pid, "maps")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc: run it on Linux")
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_look_ends_with_its_trainer(trainer, kind):
    pid = until(lambda: looking(trainer))
    os.kill(trainer.pid, kind)
    trainer.wait(120)
    assert until(lambda: "\0look\0" not in of(pid, "cmdline"))
