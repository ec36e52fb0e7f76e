"""Checksums: files that differ from bundle.json are refused."""

import json
import shutil

import pytest

from steering.catalogue.bundle import Bundle, read_info, seal
from steering.catalogue.revisions import Revisions
from steering.errors import BadBundle
from tests.server.cli.test_main import run
from tests.support import small_bundle
from tests.support.paths import HARBOR


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    folder = small_bundle.write_bundle(tmp_path_factory.mktemp("sums") / "small")
    seal(folder)
    return folder


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".hidden", "", "a\\b", "a\x1b", "x" * 129])
@pytest.mark.parametrize("field", ["name", "revision"])
def test_a_bundle_whose_name_leads_out_of_a_folder_is_refused(mine, field, name):
    about = json.loads((mine / "bundle.json").read_text()) | {field: name}
    (mine / "bundle.json").write_text(json.dumps(about))
    with pytest.raises(BadBundle, match=field):
        Bundle.open(mine)


@pytest.mark.parametrize("listed", ["../x", "/etc/hostname", "revisions/../../x", "", "a\\..\\b"])
def test_a_bundle_that_lists_a_file_elsewhere_is_refused(mine, listed):
    about = json.loads((mine / "bundle.json").read_text())
    (mine / "bundle.json").write_text(json.dumps(about | {"sha256": {listed: "0" * 64}}))
    with pytest.raises(BadBundle, match="elsewhere"):
        Bundle.open(mine)


@pytest.fixture
def mine(sealed, tmp_path):
    return shutil.copytree(sealed, tmp_path / "small")


def test_a_sealed_bundle_lists_sae_and_model_and_opens(mine):
    listed = read_info(mine).sha256
    assert {"revisions/r1/sae_weights.safetensors", "revisions/r1/cfg.json"} <= listed.keys()
    assert {"model/model.safetensors", "model/config.json", "model/tokenizer.json"} <= listed.keys()
    assert Bundle.open(mine).info.sha256 == listed


@pytest.mark.parametrize(
    "name", ["revisions/r1/sae_weights.safetensors", "model/model.safetensors", "model/tokenizer.json"]
)
def test_a_file_that_is_otherwise_is_refused_in_a_sentence_that_names_it(mine, name):
    Bundle.open(mine)
    data = bytearray((mine / name).read_bytes())
    data[len(data) // 2] ^= 1
    (mine / name).write_bytes(data)
    for opened in (lambda: Bundle.open(mine), lambda: Revisions(mine, mine / "live").open("r1")):
        with pytest.raises(BadBundle, match=rf"{name}' is not the file that bundle.json lists.*tiller sae seal"):
            opened()


def test_a_server_refuses_it_and_seal_accepts_what_one_changed_oneself(mine, tmp_path):
    config = mine / "model/generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"top_k": 3}))
    result = run("doctor", "--bundle", str(mine), "--port", "0", "--data-dir", str(tmp_path / "d"))
    assert result.returncode == 1
    assert "generation_config.json' is not the file that bundle.json lists" in result.stdout
    told = run("sae", "seal", str(mine))
    assert told.returncode == 0
    assert "model/generation_config.json" in told.stdout
    assert run("doctor", "--bundle", str(mine), "--port", "0", "--data-dir", str(tmp_path / "d")).returncode == 0


def test_a_bundle_that_is_made_here_is_sealed(sealed, tmp_path):
    opened = Bundle.open(sealed)
    info = opened.info.model_copy(update={"sha256": {}, "model": "somebody/elses"})
    Bundle.create(tmp_path / "new", info, opened.sae, about={})
    assert read_info(tmp_path / "new").sha256.keys() == {
        "revisions/r1/cfg.json",
        "revisions/r1/sae_weights.safetensors",
    }


def test_the_shipped_bundle_is_sealed():
    listed = read_info(HARBOR).sha256
    assert {f"model/{f.name}" for f in (HARBOR / "model").iterdir()} - {"model/recipe.json"} <= listed.keys()
    Bundle.open(HARBOR)


def test_weights_are_read_as_safetensors_alone():
    """A pickle can run code: only what is brought in once is read as one, and then nothing but tensors."""
    root = HARBOR.parent.parent
    readers = {
        p.relative_to(root).as_posix()
        for room in ("steering", "server")
        for p in (root / room).rglob("*.py")
        if "torch.load(" in p.read_text() or "import pickle" in p.read_text()
    }
    assert readers == {"steering/formats/weight_files.py", "steering/train/checkpoint.py"}
    for name in readers:
        text = (root / name).read_text()
        assert text.count("torch.load(") == text.count("weights_only=True")
    engines = (root / "server/engines/transformers/loading.py").read_text()
    assert "use_safetensors=True" in engines
