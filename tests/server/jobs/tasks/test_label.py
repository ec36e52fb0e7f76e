"""Labels by a language model at an endpoint, and the commands describe, label, map and features."""

import asyncio
import json
import re
import shutil
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from server.cli.main import app
from server.features.llm_client import TRIES, LLMClient, numbers_in
from server.jobs.tasks.label import LabelConfig, label_features, llm_client_from_settings
from server.jobs.tasks.publish import write_bundle
from server.settings import Settings
from steering.catalogue.bundle import Bundle
from steering.errors import SteeringError, UnknownFeature
from tests.support import planted_features, small_bundle


class Model:
    """What a language model would say: it names the marked word, and judges by whether that word is there."""

    def __init__(self):
        self.asked, self.fails, self.headers, self.says = [], [], [], None

    def answer(self, system: str, question: str) -> str:
        label = re.search(r"described like this: (.*)", system)
        if label is None:
            marked = re.findall(r"«\s*(.*?)\s*»", question)
            return f"“the word {Counter(marked).most_common(1)[0][0]}”."
        word, found = label[1].split()[-1].strip("”."), []
        lines = [re.fullmatch(r"(\d+)\. (.*)", line) for line in question.splitlines()]
        assert all(lines)
        if "Rate each text" in system:
            return json.dumps([3 if re.search(rf"«\s*{word}\s*»", line[2]) else 0 for line in lines])
        for line in lines:
            there = rf"«\s*{word}\s*»" if "marked with" in system else rf"\b{word}\b"
            if re.search(there, line[2]):
                found.append(int(line[1]))
        return f"Those are {found}"


@contextmanager
def endpoint():
    """A real HTTP server on the loopback that answers in OpenAI's shape; `fails` are answered first."""
    model = Model()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            model.asked.append((self.path, body))
            model.headers.append(dict(self.headers))
            status, headers, text = model.fails.pop(0) if model.fails else (200, {}, None)
            if text is None:
                system, question = (m["content"] for m in body["messages"])
                said = model.says or model.answer(system, question)
                text = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]})
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(text.encode()))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", model
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def garden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("garden")
    (folder / "text.txt").write_text("\n".join(planted_features.texts(260, seed=7)))
    return planted_features.planted_bundle(folder / "small"), folder / "text.txt"


@pytest.fixture
def own(garden, tmp_path):
    """A bundle that a test may write into, with settings."""
    return Settings(bundle=shutil.copytree(garden[0], tmp_path / "small"), corpus=(garden[1],), data_dir=tmp_path / "d")


def ask(url, **more):
    async def once():
        async with LLMClient(url, "m", wait=0.01, **more) as endpoint:
            return await endpoint.ask("describe", "a «red» thing")

    return asyncio.run(once())


def label_all(settings, url=None, **order):
    asked = LLMClient(url, "clever-1", wait=0.01) if url else None
    return write_bundle(
        settings, lambda ground, t: label_features(ground, LabelConfig(**order), asked, t), lambda *_: None
    )


def test_a_model_names_features_and_judges_the_names(own):
    with endpoint() as (url, model):
        found = label_all(own, url)
    assert found.figures["failed"] == 0
    after = Bundle.open(own.bundle)
    hello = after.numbered[2]
    assert (hello.label, hello.label_source) == ("the word hello", "llm:clever-1")
    assert hello.label_scores.detection >= 0.9
    assert hello.label_scores.fuzzing >= 0.9
    assert hello.label_scores.specificity >= 2.5
    assert abs(hello.label_scores.control - 0.5) <= 0.2
    assert found.figures["detection"] > found.figures["control"] + 0.1
    paths = {path for path, _ in model.asked}
    assert paths == {"/v1/chat/completions"}
    assert {body["model"] for _, body in model.asked} == {"clever-1"}
    assert all(body["temperature"] == 0 for _, body in model.asked)


def test_what_people_called_a_feature_is_judged_and_stays(own):
    with endpoint() as (url, _):
        label_all(own, url)
    red, crossing = (Bundle.open(own.bundle).numbered[i] for i in (0, 1))
    assert (red.label, red.label_source) == ("a warm colour", "hand")
    assert red.label_scores.detection == 0.5  # no text has that word
    assert (crossing.label, crossing.label_source) == ("crossing over", "fit")
    assert red.dose == 4.0


def test_without_an_endpoint_labels_are_words_and_predict_by_them(own):
    found = label_all(own)
    after = Bundle.open(own.bundle)
    hello, red = after.numbered[2], after.numbered[0]
    assert (hello.label.startswith("on “hello"), hello.label_source) == (True, "contrast")
    assert hello.words[0] == "hello"
    assert min(hello.label_scores.detection, hello.label_scores.fuzzing) >= 0.9
    assert hello.label_scores.specificity is None
    assert (red.label, red.label_source, red.label_scores) == ("a warm colour", "hand", None)
    assert red.words[0] == "red"
    assert abs(found.figures["control"] - 0.5) < 0.1
    assert after.numbered[47].label == "never fired"


def test_a_sentence_of_a_model_is_not_replaced_by_words(own):
    with endpoint() as (url, _):
        label_all(own, url)
    label_all(own)
    assert Bundle.open(own.bundle).numbered[2].label == "the word hello"


def test_only_the_features_that_are_named_are_labelled(own):
    before = Bundle.open(own.bundle)
    found = label_all(own, features=("small/2", "small/4", "small/2"))
    after = Bundle.open(own.bundle)
    assert [f.index for f in found.features] == [2, 4]
    assert after.numbered[4].label_source == "contrast"
    assert after.numbered[5] == before.numbered[5]
    with pytest.raises(UnknownFeature, match="small/99"):
        label_all(own, features=("small/99",))


def test_what_passes_is_tried_again(own):
    with endpoint() as (url, model):
        model.fails = [(429, {"retry-after": "0"}, "slow down"), (503, {}, "later")]
        assert ask(url) == "“the word red”."
        assert len(model.asked) == 3


def test_what_does_not_pass_is_told_at_once(own):
    for status in (400, 401, 404):
        with endpoint() as (url, model):
            model.fails = [(status, {}, "no such model")]
            with pytest.raises(SteeringError, match=f"answers {status}: no such model"):
                ask(url)
            assert len(model.asked) == 1


def test_it_is_not_tried_for_ever(own):
    with endpoint() as (url, model):
        model.fails = [(500, {}, "broken")] * 9
        with pytest.raises(SteeringError, match="answers 500: broken"):
            ask(url)
        assert len(model.asked) == TRIES


def test_the_key_goes_to_the_endpoint_and_nowhere_else(own, monkeypatch):
    monkeypatch.setenv("TILLER_LABEL_KEY", "sk-secret")
    settings = Settings(label_url="http://127.0.0.1:9/v1", label_model="m")
    assert "sk-secret" not in settings.model_dump_json() + repr(settings)
    again = Settings.model_validate_json(settings.model_dump_json())  # as a job's process reads them
    assert again.label_key.get_secret_value() == "sk-secret"
    with endpoint() as (elsewhere, other), endpoint() as (url, model):
        model.fails = [(307, {"location": f"{elsewhere}/chat/completions"}, "")]
        with pytest.raises(SteeringError, match="answers 307"):
            ask(url, key="sk-secret")
        assert model.headers[0]["Authorization"] == "Bearer sk-secret"
        assert other.asked == []


def test_an_endpoint_that_is_not_there_or_speaks_otherwise_is_told(own):
    with pytest.raises(SteeringError, match="cannot be reached"):
        ask("http://127.0.0.1:9/v1")
    with endpoint() as (url, model):
        model.fails = [(200, {}, '{"answer": 42}')]
        with pytest.raises(SteeringError, match="OpenAI's format"):
            ask(url)


def test_answers_that_cannot_be_read_leave_a_feature_to_its_words(own):
    with endpoint() as (url, model):
        model.says = "I would rather not say."
        found = label_all(own, url, features=("small/2",))
    hello = Bundle.open(own.bundle).numbered[2]
    assert found.figures["failed"] == 1
    assert hello.label_source == "contrast"
    assert hello.label_scores.detection >= 0.9


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [("[1, 2]", [1, 2]), ("I think [3], no: [4 5].", [4, 5]), ("```json\n[]\n```", []), ("[ 7 ]", [7])],
)
def test_numbers_are_read_out_of_an_answer(answer, numbers):
    assert list(numbers_in(answer)) == numbers


@pytest.mark.parametrize("answer", ["none", "[a]", "]1[", ""])
def test_an_answer_without_numbers_is_refused(answer):
    with pytest.raises(ValueError):
        numbers_in(answer)


def test_half_an_endpoint_is_named():
    assert llm_client_from_settings(Settings()) is None
    with pytest.raises(SteeringError, match="TILLER_LABEL_MODEL"):
        llm_client_from_settings(Settings(label_url="http://x/v1"))


def run(*words):
    return CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "200"})


def test_commands_describe_label_and_draw_a_bundle_and_find_in_it(own):
    place = ("--bundle", own.bundle)
    said = run("describe", *place, "--corpus", own.corpus[0], "--texts", 120)
    assert said.exit_code == 0, said.output
    assert f"described {small_bundle.FEATURES}, dead 1" in said.output
    after = Bundle.open(own.bundle).numbered[0]
    assert (after.label, after.dose, after.examples[0]["token"]) == ("a warm colour", 4.0, " red")
    with endpoint() as (url, _):
        said = run("label", "small/2", *place, "--corpus", own.corpus[0], "--endpoint", url, "--model", "clever-1")
    assert said.exit_code == 0, said.output
    assert "the word hello" in said.output
    said = run("map", *place, "--method", "pca")
    assert said.exit_code == 0, said.output
    assert (own.bundle / "revisions/r1/map.f32").stat().st_size == 8 * small_bundle.FEATURES
    for words in (("hello",), ("--mode", "prompt", "hello there"), ("--mode", "id", "2"),
                  ("--mode", "common", "--prompt", "hello red", "--prompt", "hello long"), ("--kind", "plain")):  # fmt: skip
        found = run("features", *words, *place, "--limit", 48)
        assert found.exit_code == 0, found.output
        assert "small/2" in found.output, words


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("features", "--mode", "smell"), "--mode"),
        (("features", "--sort", "taste"), "--sort"),
        (("features", "--min-density", "2"), "--min-density"),
        (("features", "--mode", "prompt"), "q is required"),
        (("map", "--method", "tsne"), "must be umap or pca"),
        (("label", "small/99"), "no feature 'small/99'"),
        (("label", "--endpoint", "http://127.0.0.1:9/v1"), "TILLER_LABEL_MODEL"),
        (("describe", "--corpus", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_what_a_command_cannot_do_is_said_in_a_line(own, words, says):
    said = run(*words, "--bundle", own.bundle)
    assert said.exit_code == 1
    assert says in said.output
    assert "Traceback" not in said.output


def test_a_bundle_is_as_it_was_if_describing_is_killed(own, monkeypatch):
    import steering.catalogue.bundle as catalogue

    before = (own.bundle / "revisions/r1/features.jsonl").read_bytes()
    monkeypatch.setattr(catalogue.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    assert run("describe", "--bundle", own.bundle, "--corpus", own.corpus[0]).exit_code == 1
    assert (own.bundle / "revisions/r1/features.jsonl").read_bytes() == before
