"""A bundle with a briefly trained SAE, its old and new text, and user conversations: for the tests of the trainer."""

import asyncio
import json
import random

import pytest

from server.settings import Settings
from server.store.sqlite.store import SqliteStore
from tests.support import small_bundle

SAID = "the bridge is red and long what should I do this weekend hello there how are you sea star coffee"
WORDS = SAID.split()


def chats(file, words, n, seed=0):
    draw = random.Random(seed)
    say = lambda k: " ".join(draw.choices(words, k=k))  # noqa: E731
    rows = [[{"role": "user", "content": say(8)}, {"role": "assistant", "content": say(14)}] for _ in range(n)]
    file.write_text("".join(json.dumps({"messages": m}) + "\n" for m in rows))
    return rows


@pytest.fixture
def place(tmp_path):
    """Return a bundle with a briefly trained SAE, old text and new text."""
    from typer.testing import CliRunner

    from server.cli.main import app

    raw = small_bundle.write_bundle(tmp_path / "raw" / "small")
    chats(tmp_path / "old.jsonl", WORDS, 900)
    chats(tmp_path / "new.jsonl", [*WORDS[:6], "volcano", "lava", "ash", "crater"], 700, seed=1)
    words = [
        "sae",
        "train",
        "--bundle",
        raw,
        "--out",
        tmp_path / "made",
        "--text",
        tmp_path / "old.jsonl",
        "--features",
        96,
    ]
    words += ["--k", 6, "--rows", 256, "--buffer", 4000, "--passes", 3, "--checkpoint", 50]
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 0, done.output
    return tmp_path


def settings(place, **more):
    return Settings(data_dir=place / "data", bundle=place / "made", corpus=(place / "old.jsonl",), **more)


def stored(place, act):
    async def once():
        store = SqliteStore(place / "data" / "tiller.db")
        try:
            return await act(store)
        finally:
            await store.close()

    return asyncio.run(once())


def live(place, rows, users=25):
    async def give(store):
        for i in range(users):
            await store.set_consent(f"u{i}", True)
        for i, messages in enumerate(rows):
            await store.keep_text(f"u{i % users}", json.dumps(messages), most=100, seconds=999)

    stored(place, give)
