"""`tiller analyze`: texts, chats and transcripts from files, with the API's results; unreadable input is named."""

import json

import pytest
from typer.testing import CliRunner

from server.cli.main import app

CHAT = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "the bridge is red"}]


@pytest.fixture
def look(bundle, tmp_path):
    def run(name, content, *arguments):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return CliRunner().invoke(app, ["analyze", str(file), "--bundle", str(bundle), *arguments])

    return run


def told(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_text_shows_its_features_along_it(look):
    result = look("a.txt", "the bridge is red and long", "--top", "5")
    assert result.exit_code == 0
    assert "small/" in result.stdout
    assert "along" in result.stdout


def test_json_is_what_the_api_answers(look, http):
    text = "the bridge is red 👩‍👩‍👧 and long"
    here = told(look("a.txt", text, "--json", "--top", "24"))
    there = http.post("/v1/analyze", json={"text": text}).json()
    assert here.keys() == there.keys()
    assert [t["id"] for t in here["tokens"]] == [t["id"] for t in there["tokens"]]
    assert [f["id"] for f in here["features"]] == [f["id"] for f in there["features"]]
    for a, b in zip(here["features"], there["features"], strict=True):
        assert a["activations"] == pytest.approx(b["activations"], abs=2e-3)


def test_lines_that_are_messages_are_one_chat(look, http):
    here = told(look("a.jsonl", "\n".join(map(json.dumps, CHAT)), "--json"))
    there = http.post("/v1/analyze", json={"messages": CHAT}).json()
    assert set(here["speakers"]) == {"user", "assistant"}
    assert [t["id"] for t in here["tokens"]] == [t["id"] for t in there["tokens"]]


def test_several_chats_are_read_each_by_itself(look):
    one = told(look("a.jsonl", json.dumps({"messages": CHAT}), "--json"))
    two = told(look("a.jsonl", f"{json.dumps({'messages': CHAT})}\n" * 2, "--json"))
    n = len(one["tokens"])
    assert len(two["tokens"]) == 2 * n
    assert [t["error"] for t in two["tokens"][n:]] == pytest.approx([t["error"] for t in one["tokens"]], abs=1e-3)
    assert [t["part"] for t in two["tokens"][n:]] == [t["part"] + 2 for t in one["tokens"]]


def test_a_transcript_is_told_by_speaker_and_plain_takes_it_as_text(look):
    text = "Ada: hello there\nBob: the bridge is red"
    result = look("a.txt", text)
    assert "Ada" in result.stdout and "Bob" in result.stdout
    assert len(told(look("a.txt", text, "--json"))["parts"]) == 2
    assert len(told(look("a.txt", text, "--json", "--plain"))["parts"]) == 1


def test_two_files_are_held_against_each_other(look, tmp_path):
    other = tmp_path / "b.txt"
    other.write_text("hello there, how are you")
    result = look("a.txt", "the bridge is red", "--other", str(other))
    assert result.exit_code == 0
    assert "log odds" in result.stdout
    assert told(look("a.txt", "the bridge is red", "--other", str(other), "--json"))["compared"]


def test_a_text_longer_than_the_context_is_read_to_its_end(look):
    text = "the bridge is red and long " * 150
    assert told(look("a.txt", text, "--json"))["tokens"][-1]["end"] == len(text)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "", "contains no text"),
        ("a.txt", " \n\n", "contains no text"),
        ("a.bin", b"\x89PNG\xff\xfe", "not UTF-8 text"),
        ("a.bin", b"abc\0def", "zero bytes"),
        ("a.jsonl", "{}\n", "line 1 of a.jsonl"),
        ("a.jsonl", '{"text": "a"}\nnonsense\n', "line 2 of a.jsonl"),
        ("a.jsonl", "[1]\n", "line 1 of a.jsonl"),
        ("a.jsonl", '{"role": "wizard", "content": "a"}\n', "role must be"),
    ],
)
def test_a_file_that_cannot_be_looked_at_says_what_is_wrong(look, name, content, says):
    result = look(name, content)
    assert result.exit_code == 1
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_a_missing_file_is_named(bundle):
    result = CliRunner().invoke(app, ["analyze", "nowhere.txt", "--bundle", str(bundle)])
    assert result.exit_code == 1
    assert "no file 'nowhere.txt'" in result.stderr
