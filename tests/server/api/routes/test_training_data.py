"""Training data: only conversations of users who consented, and none after they withdraw consent."""

import asyncio

import httpx
import pytest

from server.settings import Settings
from server.store.encryption import TextEncryption
from server.store.sqlite.store import SqliteStore
from tests.support.live_server import serving


@pytest.fixture
def served(bundle, tmp_path):
    with serving(bundle, tmp_path, live_texts=3) as (address, _), httpx.Client(base_url=address) as http:
        yield http


def ask(http, question, user="ada", **more):
    body = {
        "model": "small",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 4,
        "user": user,
        **more,
    }
    body["model"] = http.get("/v1/models").json()["data"][0]["id"]
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer


def state(http, user="ada"):
    return http.get("/v1/training/consent", params={"user": user}).json()


def agree(http, user="ada", consent=True):
    return http.put("/v1/training/consent", json={"user": user, "consent": consent})


def texts(tmp_path):
    async def read():
        store = SqliteStore(tmp_path / "tiller.db")
        try:
            return TextEncryption.from_settings(Settings(data_dir=tmp_path)).opened(await store.live_texts())
        finally:
            await store.close()

    return asyncio.run(read())


def test_nothing_is_kept_of_those_who_did_not_agree(served, tmp_path):
    ask(served, "my secret is blue")
    ask(served, "my secret is green", user=None)
    agree(served, "eve")
    assert texts(tmp_path) == []
    assert state(served) == {"user": "ada", "consent": False, "texts": 0, "most": 3, "days": 7.0}
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"secret" not in file.read_bytes(), file


@pytest.mark.parametrize("stream", [False, True])
def test_what_they_agreed_to_give_is_kept_with_the_reply(served, tmp_path, stream):
    agree(served)
    ask(served, "what is rain", stream=stream)
    (kept,) = texts(tmp_path)
    assert kept.user == "ada"
    assert "what is rain" in kept.messages
    assert '"assistant"' in kept.messages


def test_of_a_steered_reply_only_the_question_is_kept(served, tmp_path):
    agree(served)
    feature = served.get("/v1/features").json()["data"][0]["id"]
    ask(served, "what is rain", steering={"features": [{"id": feature, "strength": 0.5}]})
    assert '"assistant"' not in texts(tmp_path)[0].messages


def test_each_gives_so_much_at_most_and_nothing_twice(served, tmp_path):
    agree(served)
    for n in (1, 2, 2, 3, 4, 5):
        ask(served, f"question {n}", temperature=0)
    assert state(served)["texts"] == 3
    assert "question 5" in texts(tmp_path)[-1].messages
    assert "question 3" in texts(tmp_path)[0].messages


def test_taking_it_back_deletes_everything_at_once(served, tmp_path):
    agree(served)
    agree(served, "eve")
    ask(served, "keep me")
    ask(served, "keep me, too", user="eve")
    assert agree(served, consent=False).json()["texts"] == 0
    assert [t.user for t in texts(tmp_path)] == ["eve"]
    ask(served, "and now")
    assert state(served)["texts"] == 0
    assert served.delete("/v1/training/texts", params={"user": "eve"}).json() == {"user": "eve", "deleted": 1}
    assert state(served, "eve")["consent"] is True


@pytest.mark.parametrize(
    ("body", "said"),
    [({"user": "", "consent": True}, "user"), ({"user": "a"}, "consent"), ({"user": "a", "consent": "x"}, "consent")],
)
def test_bad_consent_is_named(served, body, said):
    answer = served.put("/v1/training/consent", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert served.get("/v1/training/consent").status_code == 400
