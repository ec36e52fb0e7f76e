"""`tiller store backup` and `restore`: from any store into any other, all or nothing."""

import asyncio
import json
import sqlite3

import pytest
from typer.testing import CliRunner

from server.cli.main import app
from server.settings import Settings
from server.store import backup as document
from server.store.factory import open_store
from server.store.models import SESSION, Record
from tests.server.store.conftest import KINDS
from tests.server.store.test_contract import fill, preset, without_mark


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(params=KINDS)
def other(request, tmp_path, redis):
    """A second store, of each kind, empty."""
    url = f"{redis}/11" if request.param == "redis" else None
    found = Settings(data_dir=tmp_path / "other", redis_url=url)
    act(found, lambda store: store.put_records([], replace=True))
    return found


def act(settings, work):
    async def run():
        store = open_store(settings)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def tiller(settings, *words):
    place = ["--data-dir", str(settings.data_dir), *(["--redis-url", settings.redis_url] if settings.redis_url else [])]
    return CliRunner().invoke(app, ["store", *map(str, words), *place])


def held(settings):
    """All but the end of this machine's own audit log, in which the restoring stands."""
    records = map(without_mark, act(settings, lambda store: store.records()))
    return [r for r in records if not (r.kind == "setting" and r.value["key"].startswith("audit:"))]


def test_everything_goes_out_of_one_store_and_into_the_other(settings, other, tmp_path):
    act(settings, fill)
    file = tmp_path / "backup.jsonl"
    out = tiller(settings, "backup", file)
    assert (out.exit_code, "1 preset, " in out.output, "24 texts" in out.output) == (0, True, True), out.output
    assert file.stat().st_mode & 0o777 == 0o600
    back = tiller(other, "restore", file)
    assert (back.exit_code, back.output) == (0, f"restored {out.output.partition(': ')[2]}"), back.output
    assert held(other) == held(settings)
    again = tmp_path / "again.jsonl"
    assert tiller(other, "backup", again).exit_code == 0
    assert kept_in(again) == kept_in(file)


def test_what_signs_cookies_is_in_no_backup_and_comes_back_from_none(settings, tmp_path):
    act(settings, lambda store: store.first_setting(SESSION, "a secret of before"))
    file = tmp_path / "backup.jsonl"
    assert tiller(settings, "backup", file).exit_code == 0
    assert "a secret of before" not in file.read_text()
    kept = [Record("setting", {"key": SESSION, "value": "from an older version"})]
    file.write_text("\n".join(document.lines(kept)))
    assert tiller(settings, "restore", file, "--replace").exit_code == 0
    assert act(settings, lambda store: store.setting(SESSION)) is None


def kept_in(file):
    rows, own = map(json.loads, file.read_text().splitlines()[1:-1]), ("edits:", "audit:")
    return sorted(str(r) for r in rows if not str(r["value"].get("key")).startswith(own))


def test_what_is_there_is_only_replaced_when_told(settings, tmp_path):
    act(settings, fill)
    file = tmp_path / "backup.jsonl"
    tiller(settings, "backup", file)
    act(settings, lambda store: store.save_preset(preset("Later")))
    refused = tiller(settings, "restore", file)
    assert (refused.exit_code, "--replace" in refused.stderr) == (1, True)
    assert len(act(settings, lambda store: store.presets())) == 2
    assert tiller(settings, "restore", file, "--replace").exit_code == 0
    assert len(act(settings, lambda store: store.presets())) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:-1], "cut off"),
        (lambda rows: [*rows[:5], rows[-1]], "cut off"),
        (lambda rows: [*rows[:-1], rows[-1][:-4]], "not a backup"),
        (lambda rows: [rows[0].replace("1}", "2}"), *rows[1:]], "newer version"),
        (lambda rows: ['{"a": 1}', *rows[1:]], "not a backup"),
        (lambda rows: [rows[0], rows[1].replace('"kind": "', '"kind": "un'), *rows[2:]], "not a backup"),
        (lambda rows: [rows[0], rows[1].replace('"name": "A"', '"name": ""'), *rows[2:]], "nothing was changed"),
        (lambda rows: [], "not a backup"),
    ],
)
def test_a_damaged_backup_is_refused_and_changes_nothing(settings, tmp_path, change, said):
    act(settings, fill)
    before, file = held(settings), tmp_path / "backup.jsonl"
    tiller(settings, "backup", file)
    file.write_text("\n".join(change(file.read_text().splitlines())))
    result = tiller(settings, "restore", file, "--replace")
    assert (result.exit_code, said in result.stderr) == (1, True), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert held(settings) == before


def test_ends_of_lines_in_what_was_said_do_no_harm(settings, tmp_path):
    odd = preset("Odd", description="one\u2028two\u0085three\nfour")
    act(settings, lambda store: store.save_preset(odd))
    file = tmp_path / "backup.jsonl"
    assert tiller(settings, "backup", file).exit_code == 0
    assert tiller(settings, "restore", file, "--replace").exit_code == 0
    (back,) = act(settings, lambda store: store.presets())
    assert back.description == odd.description


def test_files_that_cannot_be_read_or_written_get_one_sentence(tmp_path):
    place = Settings(data_dir=tmp_path)
    for words in (["restore", tmp_path / "none"], ["backup", tmp_path / "no" / "folder"]):
        result = tiller(place, *words)
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1), result.stderr


def test_sqlites_own_backup_of_a_store_in_use_opens(tmp_path):
    place = Settings(data_dir=tmp_path)

    async def write_and_copy(store):
        await fill(store)
        copy = sqlite3.connect(tmp_path / "tiller.db")
        (tmp_path / "copy").mkdir()
        copy.execute("VACUUM INTO ?", (str(tmp_path / "copy" / "tiller.db"),))
        copy.close()
        await store.save_preset(preset("Later"))

    act(place, write_and_copy)
    kept = held(Settings(data_dir=tmp_path / "copy"))
    assert len(kept) == len(held(place)) - 1
