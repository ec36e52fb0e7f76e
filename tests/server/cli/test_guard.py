"""`tiller guard train` and `read`, on the small bundle."""

import json
from itertools import product

import pytest
from typer.testing import CliRunner

from server.cli.guard import app
from steering.safety.probe import Probe


def run(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160"})
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Forbidden is whatever ends with a red bridge; half of it are replies."""
    folder = tmp_path_factory.mktemp("texts")
    said = [" ".join(words) for words in product(("hello", "so", "how"), ("are you", "do I", "this weekend"), "abcdef")]
    for name, end in (("forbidden", "red red bridge"), ("benign", "long long weekend")):
        rows = [{"text": f"{text} {end}"} for text in said[::2]]
        asked = {"role": "user", "content": "hello"}
        rows += [{"messages": [asked, {"role": "assistant", "content": f"{text} {end}"}]} for text in said[1::2]]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def trained(bundle, files, out, *more):
    given = ("--forbidden", files / "forbidden.jsonl", "--benign", files / "benign.jsonl", "--out", out)
    return run("train", *given, "--bundle", bundle, *more)


def test_a_trained_probe_says_what_it_is_worth_and_reads_other_texts(bundle, files, tmp_path):
    code, output = trained(bundle, files, tmp_path / "probe")
    assert code == 0, output
    assert "AUROC there" in output
    assert "held out │ 18 forbidden, 18 benign" in output
    assert Probe.load(tmp_path / "probe").hook == "layers.0"
    code, output = run("read", tmp_path / "probe", "hello a red red bridge", "--bundle", bundle)
    assert code == 0, output
    assert "forbidden" in output
    code, output = run("read", tmp_path / "probe", files / "benign.jsonl", "--bundle", bundle)
    assert code == 0, output
    assert output.count("benign") > output.count("forbidden")


def test_a_probe_where_steering_reaches_is_refused_before_anything_is_read(bundle, files, tmp_path):
    code, output = trained(bundle, files, tmp_path / "probe", "--hook", "layers.1")
    assert code == 1
    assert "train it at 'layers.0' or lower" in output
    assert not (tmp_path / "probe").exists()


def test_a_folder_without_a_probe_is_told_of_in_a_sentence(bundle, tmp_path):
    code, output = run("read", tmp_path, "hello", "--bundle", bundle)
    assert code == 1
    assert "cannot read a probe" in output
    assert "Traceback" not in output


def test_a_file_without_text_is_told_of_in_a_sentence(bundle, files, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    given = ("--forbidden", tmp_path / "empty.txt", "--benign", files / "benign.jsonl", "--out", tmp_path / "probe")
    code, output = run("train", *given, "--bundle", bundle)
    assert code == 1
    assert "holds no text" in output
