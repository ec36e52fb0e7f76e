"""Settings: four sources and their precedence, errors with their source, and the generated reference page."""

import tomllib
from pathlib import Path

import pytest
from pydantic import SecretStr

from server import settings_reference
from server.settings import (
    HANDED,
    BadSettings,
    Settings,
    child_environment,
    flag,
    inherited_settings,
    is_secret,
    load_settings,
    origins,
    variable,
)
from tests.server.cli.test_main import run
from tests.support.paths import ROOT

FULL = {
    "host": "::1",
    "port": 1,
    "data_dir": "d",
    "bundle": "b",
    "model": "m",
    "engine": "vllm",
    "vllm": ["--x"],
    "redis_url": "redis://h",
    "corpus": ["a", "b"],
    "label_key": "k",
    "job_kinds": ["a=b:c"],
}

PAGE = ROOT / "docs/reference/configuration.md"


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a TOML file that TILLER_CONFIG names; nothing else of the environment counts."""
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("TILLER_CONFIG", str(tmp_path / "tiller.toml"))

    def written(text):
        (tmp_path / "tiller.toml").write_text(text)
        return tmp_path / "tiller.toml"

    return written


def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(file, monkeypatch):
    file("port = 1\nlive = 2\nqueue = 3\n")
    monkeypatch.setenv("TILLER_LIVE", "20")
    monkeypatch.setenv("TILLER_PORT", "10")
    found = load_settings(port=100, queue=None)
    assert (found.port, found.live, found.queue, found.workers) == (100, 20, 3, 1)
    told = origins(port=100, queue=None)
    assert (told["port"], told["live"], told["workers"]) == ("--port", "TILLER_LIVE", "default")
    assert told["queue"].endswith("tiller.toml")


@pytest.mark.parametrize("name", [n for n in Settings.model_fields if n != "config"])
def test_every_setting_can_stand_in_the_file_and_in_the_environment(file, monkeypatch, name):
    default = Settings.model_fields[name].default
    value = FULL.get(
        name, not default if isinstance(default, bool) else default if default is not None else "some" * 10
    )
    file(f"{name} = {settings_reference._toml(tuple(value) if isinstance(value, list) else value)}\n")
    by_file = getattr(load_settings(), name)
    file("")
    monkeypatch.setenv(variable(name), value if isinstance(value, str) else settings_reference._toml(_listed(value)))
    by_environment = getattr(load_settings(), name)
    assert by_file == by_environment
    assert origins()[name] == variable(name)


def _listed(value):
    return tuple(value) if isinstance(value, list) else value


def test_every_setting_but_a_secret_is_a_flag_of_serve():
    said = run("serve", "--help", COLUMNS="300").stdout
    for name in Settings.model_fields:
        known = flag(name) in said
        assert known != (is_secret(name) or name == "vllm"), name


def test_redis_url_as_platforms_name_it_counts_if_nothing_else_does(file, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://bare")
    file("")
    assert load_settings().redis_url == "redis://bare"
    assert origins()["redis_url"] == "REDIS_URL"
    file('redis_url = "redis://file"')
    assert load_settings().redis_url == "redis://file"
    monkeypatch.setenv("TILLER_REDIS_URL", "redis://ours")
    assert load_settings().redis_url == "redis://ours"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_psuh = 3", ["tiller.toml", "'max_psuh'", "did you mean 'max_push'?"]),
        ("zzz = 3", ["tiller.toml", "'zzz'", "tiller config --reference"]),
        ("[server]\nport = 3", ["tiller.toml", "'server'"]),
        ("port = 70000", ["tiller.toml: port", "must be at most 65535, got 70000"]),
        ('engine = "abacus"', ["tiller.toml: engine", "'transformers' or 'vllm'", "'abacus'"]),
        ("port = ", ["tiller.toml", "no TOML", "Invalid value"]),
        ("config = 'x'", ["tiller.toml", "'config'"]),
    ],
)
def test_what_is_wrong_with_the_file_is_said_with_its_name_the_key_and_what_was_expected(file, text, words):
    file(text)
    with pytest.raises(BadSettings) as caught:
        load_settings()
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_wrong_variable_and_a_wrong_flag_are_named_so(file, monkeypatch):
    file("")
    with pytest.raises(BadSettings, match=r"^--live: live: must be at least 1, got 0"):
        load_settings(live=0)
    monkeypatch.setenv("TILLER_QUEUE", "many")
    with pytest.raises(BadSettings, match=r"^TILLER_QUEUE: queue: must be an integer, got 'many'"):
        load_settings()
    monkeypatch.setenv("TILLER_CORPUS", "a.jsonl")
    with pytest.raises(BadSettings, match="TILLER_CORPUS: expected a list in JSON"):
        load_settings(queue=1)


def test_a_wrong_secret_is_not_shown(file):
    file("label_key = [1234567]")
    with pytest.raises(BadSettings, match="label_key") as caught:
        load_settings()
    assert "1234567" not in str(caught.value)


def test_a_file_that_is_missing_is_one_sentence():
    result = run("serve", "--config", "/nowhere/tiller.toml", "--no-browser")
    assert result.returncode == 1
    assert result.stderr.strip() == "tiller: cannot read '/nowhere/tiller.toml': No such file or directory"


def test_config_prints_what_is_in_force_as_toml_whence_it_comes_and_no_secret(file, tmp_path):
    written = file('label_key = "canary"\nredis_url = "redis://me:canary@host:1/0"\nmax_push = 3.0\n')
    result = run("config", "--config", str(written), "--live", "4", TILLER_QUEUE="5", TILLER_MAX_PSUH="1")
    assert result.returncode == 0, result.stderr
    assert "canary" not in result.stdout
    assert "TILLER_MAX_PSUH is not a setting; did you mean TILLER_MAX_PUSH?" in result.stderr
    told = {line.split(" = ")[0]: line.rpartition("# ")[2] for line in result.stdout.splitlines()}
    assert (told["live"], told["queue"], told["port"]) == ("--live", "TILLER_QUEUE", "default")
    assert told["max_push"].endswith("tiller.toml")
    (tmp_path / "again.toml").write_text(result.stdout)
    found = tomllib.loads(result.stdout)
    assert (found["live"], found["queue"], found["max_push"]) == (4, 5, 3.0)
    assert run("config", "--config", str(tmp_path / "again.toml")).returncode == 0


def test_a_process_that_is_given_the_settings_reads_the_secrets_again(file):
    file('label_key = "canary"\nlive = 3')
    told = load_settings().model_dump_json()
    assert "canary" not in told
    again = Settings.model_validate_json(told)
    assert again.label_key is not None
    assert again.label_key.get_secret_value() == "canary"
    assert again == load_settings()


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text() == settings_reference.reference(), (
        "run: tiller config --reference > docs/reference/configuration.md"
    )
    assert all(Settings.model_fields[name].description for name in Settings.model_fields)


def test_the_page_is_the_same_on_every_machine():
    assert str(Path.home()) not in settings_reference.reference()
    assert str(ROOT) not in settings_reference.reference()


def test_the_shell_sees_no_difference_between_the_command_and_the_page():
    assert run("config", "--reference").stdout == PAGE.read_text()


def test_what_one_process_hands_another_is_all_but_its_secrets_and_for_once(monkeypatch):
    settings = Settings(port=7, redis_url="redis://:password@h", label_key=SecretStr("a-secret"), corpus=(Path("a"),))
    given = child_environment(settings)
    assert "a-secret" not in given[HANDED]
    monkeypatch.setenv(HANDED, given[HANDED])
    assert inherited_settings() == settings.model_copy(update={"label_key": None})
    assert inherited_settings() is None


@pytest.mark.parametrize("words", [["look"], ["job", "job_1"], ["replica", "--listening", "3", "--page", "p"]])
def test_what_people_do_not_run_says_so(words):
    result = run(*words)
    assert (result.returncode, "this command is internal" in result.stderr) == (1, True), result.stderr


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_admin_key_is_none(file, monkeypatch, empty):
    file("")
    monkeypatch.setenv("TILLER_ADMIN_KEY", empty)
    assert load_settings().admin_key is None


def test_a_short_admin_key_is_refused_with_a_way_to_make_one_and_is_not_repeated(file, monkeypatch):
    file("")
    monkeypatch.setenv("TILLER_ADMIN_KEY", "password")
    with pytest.raises(BadSettings, match="openssl rand -hex 24") as refused:
        load_settings()
    assert str(refused.value).startswith("TILLER_ADMIN_KEY: admin_key: a key of fewer than 32 characters")
    assert "password" not in str(refused.value)
    monkeypatch.setenv("TILLER_ADMIN_KEY", f" {'5f' * 24}\n")
    found = load_settings().admin_key
    assert found
    assert found.get_secret_value() == "5f" * 24
