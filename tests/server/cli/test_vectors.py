"""`tiller vectors import` and `export`, on the small bundle with a store of its own."""

import asyncio

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from server.cli.main import app
from server.cli.vectors import _name_of
from server.settings import Settings
from server.store.factory import open_store
from server.user_data.documents import check_snapshot
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.edits import as_vector
from steering.model.hooks import steer, tap
from steering.spec import Intervention, SteeringSpec
from tests.steering.formats.test_control_vectors import gguf_of
from tests.support import small_bundle

WIDTH, LAYER = small_bundle.WIDTH, 1


@pytest.fixture
def tiller(bundle, tmp_path):
    def run(*words, user="ada"):
        given = [*map(str, words), "--bundle", str(bundle), "--data-dir", str(tmp_path / "data")]
        done = CliRunner().invoke(app, ["vectors", *given, *(("--user", user) if user else ())])
        return done.exit_code, " ".join(done.output.split())

    return run


@pytest.fixture
def stored(tmp_path):
    async def read(user):
        store = open_store(Settings(data_dir=tmp_path / "data"))
        try:
            return await store.vectors(user, "small")
        finally:
            await store.close()

    return lambda user="ada": {v.name: v for v in asyncio.run(read(user))}


def push(seed=0):
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) * 3


def file_of(tmp_path, *layers, name="happy.gguf"):
    return gguf_of(tmp_path / name, {f"direction.{n}": push(n).numpy() for n in layers or (LAYER,)})


def test_an_imported_vector_is_the_files_direction_with_the_unit_max_as_its_scale(tiller, stored, tmp_path):
    code, output = tiller("import", file_of(tmp_path), "--no-measure")
    assert code == 0, output
    (vector,) = stored().values()
    length = float(push(LAYER).norm())
    assert (vector.id, vector.method) == ("vector/happy", "import")
    torch.testing.assert_close(as_vector(vector.snapshot.direction, WIDTH) * length, push(LAYER))
    assert vector.snapshot.typical_max == pytest.approx(length)
    assert f"llama.cpp's scale 1.0 is raw strength {length:.4g}" in output
    check_snapshot(vector.snapshot, WIDTH, param="")


def test_an_imported_vector_has_a_measured_dose(tiller, stored, tmp_path):
    code, output = tiller("import", file_of(tmp_path), "--name", "glad")
    assert code == 0, output
    assert stored()["glad"].snapshot.measured
    assert stored()["glad"].snapshot.knots


@pytest.mark.parametrize("suffix", ["gguf", "safetensors"])
def test_what_is_exported_comes_back_as_it_was(tiller, stored, tmp_path, suffix):
    assert tiller("import", file_of(tmp_path), "--no-measure")[0] == 0
    again = tmp_path / f"again.{suffix}"
    code, output = tiller("export", "happy", again, "--strength", float(push(LAYER).norm()))
    assert code == 0, output
    assert tiller("import", again, "--no-measure")[0] == 0
    one, other = (as_vector(stored()[n].snapshot.direction, WIDTH) for n in ("happy", "again"))
    torch.testing.assert_close(one, other)
    assert stored()["again"].snapshot.typical_max == pytest.approx(float(push(LAYER).norm()))


def test_an_exported_feature_added_after_its_block_is_the_push_of_that_dose(tiller, bundle, tmp_path):
    code, output = tiller("export", "small/1", tmp_path / "a.gguf", "--dose", 0.7, user=None)
    assert code == 0, output
    (tensor,) = GGUFReader(tmp_path / "a.gguf").tensors
    added, opened = torch.from_numpy(np.array(tensor.data)), Bundle.open(bundle)
    assert tensor.name == f"direction.{LAYER}"
    spec = SteeringSpec(features=(Intervention(id="small/1", strength=0.7),))
    model, ids = small_bundle.model(300), torch.arange(9)[None]
    with steer(model, Catalogue([opened]).resolve(spec).edits):
        ours = model(ids, output_hidden_states=True)
    with tap(model, {f"layers.{LAYER}": lambda x: x + added}):  # what llama.cpp does with `direction.<block>`
        theirs = model(ids, output_hidden_states=True)
    plain = model(ids, output_hidden_states=True)
    assert torch.equal(plain.hidden_states[LAYER], theirs.hidden_states[LAYER])
    torch.testing.assert_close(ours.logits, theirs.logits)
    assert not torch.allclose(plain.logits, theirs.logits)


def test_a_format_may_be_named_where_the_suffix_says_none(tiller, tmp_path):
    code, output = tiller("export", "small/1", tmp_path / "a", "--format", "safetensors", user=None)
    assert code == 0, output
    assert list(load_file(tmp_path / "a")) == [f"direction.{LAYER}"]


def test_of_several_layers_the_steered_one_is_taken_and_the_others_are_told(tiller, stored, tmp_path):
    code, output = tiller("import", file_of(tmp_path, 1, 2, 5), "--no-measure")
    assert code == 0, output
    assert "the direction for layer 1;" in output
    assert "left out: the directions for the layers 2, 5" in output
    code, output = tiller("import", file_of(tmp_path, 1, 2), "--no-measure", "--layer", 2, "--replace")
    assert code == 0, output
    assert "made for layer 2, and layer 1 is steered here" in output
    length = float(push(2).norm())
    torch.testing.assert_close(as_vector(stored()["happy"].snapshot.direction, WIDTH) * length, push(2))


def test_vectors_are_their_users(tiller, stored, tmp_path):
    assert tiller("import", file_of(tmp_path), "--no-measure")[0] == 0
    assert not stored("eve")
    code, output = tiller("export", "happy", tmp_path / "a.gguf", user="eve")
    assert (code, output) == (1, "tiller: 'eve' has no vector 'happy' for 'small'; there are: none")
    code, output = tiller("import", file_of(tmp_path), "--no-measure", user=None)
    assert code == 1
    assert "say whose it is with --user" in output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["import", "happy.gguf", "--no-measure"], "there is a vector 'happy' already"),
        (["import", "happy.gguf", "--no-measure", "--name", "A b"], "'A b' is no name of a vector"),
        (["import", "far.gguf", "--no-measure"], "no direction for layer 1, which is steered here; it has 7"),
        (["import", "wide.safetensors", "--no-measure"], "has the shape 65; this model's stream has a width of 64"),
        (["import", "long.safetensors", "--no-measure"], "at most 1e+06 can be stored: scale it down"),
        (["import", "v.pt"], "is a pickled file, which can run code"),
        (["export", "small/999", "a.gguf"], "no feature 'small/999'"),
        (["export", "small/1", "a.gguf", "--strength", "0"], "a strength of 0 is no push"),
        (["export", "small/1", "a.gguf", "--strength", "nan"], "a strength of nan is no push"),
        (["export", "small/1", "a.gguf", "--strength", "1", "--dose", "1"], "two ways to say the same"),
        (["export", "small/1", "a.txt"], "ends neither with .gguf nor with .safetensors"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(tiller, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    assert tiller("import", file_of(tmp_path), "--no-measure")[0] == 0
    file_of(tmp_path, 7, name="far.gguf")
    save_file({"direction.1": torch.ones(65)}, "wide.safetensors")
    save_file({"direction.1": torch.full((64,), 1e7)}, "long.safetensors")
    code, output = tiller(*words)
    assert code == 1
    assert says in output
    assert "Traceback" not in output


def test_a_files_name_becomes_a_vectors_name(tmp_path):
    assert _name_of(tmp_path / "Happy (v2).gguf") == "happy-v2"
