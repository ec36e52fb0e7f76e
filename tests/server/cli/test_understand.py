"""`tiller contrast`, `attribute` and `diff`."""

import json
import re
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from server.cli.main import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, text in (("a", "the bridge is red and long"), ("b", "hello there, how are you")):
        rows = [json.dumps({"text": f"{text} {i}"}) for i in range(10)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


def test_contrast_prints_both_directions_and_how_many_are_sure(bundle, texts):
    done = run("contrast", texts / "a.jsonl", texts / "b.jsonl", "--by", "mean", "--top", 3, "--bundle", bundle)
    assert done.exit_code == 0, done.output
    assert "more in a.jsonl" in done.output
    assert "more in b.jsonl" in done.output
    assert "separate 10 documents from 10" in " ".join(done.output.split())


def test_attribute_prints_the_features_of_the_next_token(bundle):
    done = run("attribute", "what should I do", "--top", 3, "--bundle", bundle)
    assert done.exit_code == 0, done.output
    assert "lost without it" in done.output
    assert "next is" in done.output
    named = run("attribute", "the bridge is", "--plain", "--target", "red", "--against", "long", "--bundle", bundle)
    assert "rather than" in named.output


def test_diff_compares_a_checkpoint_with_another_and_finds_no_change_to_itself(bundle, texts, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(bundle / "model")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.add_(0.5)
    shutil.copytree(bundle / "model", tmp_path / "changed")
    model.save_pretrained(tmp_path / "changed")

    def changed(other):
        done = run("diff", bundle / "model", other, "--text", texts / "a.jsonl", "--bundle", bundle)
        assert done.exit_code == 0, done.output
        found = re.search(r"(\d+) of (\d+) features have changed over 10 documents", " ".join(done.output.split()))
        assert found, done.output
        return int(found[1]), int(found[2])

    discoveries, compared = changed(tmp_path / "changed")
    assert 0 < discoveries <= compared
    assert changed(bundle / "model") == (0, 0)  # only features with a difference are tested


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("contrast", "none.jsonl", "none.jsonl"), "none.jsonl"),
        (("attribute", "hello", "--target", "antidisestablishment"), "tokens"),
        (("diff", "nowhere", "nowhere", "--text", "none.jsonl"), "none.jsonl"),
    ],
)
def test_what_is_missing_is_named(bundle, arguments, says):
    done = run(*arguments, "--bundle", bundle)
    assert done.exit_code == 1
    assert says in done.output
